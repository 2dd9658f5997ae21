r"""Train the generator bank: the perturbations of one data set at one effective batch size.

One process, then two ranks on one machine under each engine, then two machines of four GPUs:

    python -m bigbatch_ue.train --preset digits batch.effective=4096
    accelerate launch --config_file launchers/accelerate/ddp.yaml \
        -m bigbatch_ue.train --preset digits
    accelerate launch --config_file launchers/accelerate/zero3.yaml \
        -m bigbatch_ue.train --preset digits
    MACHINES=2 MACHINE_RANK=$RANK MAIN_HOST=$HOST RANKS_PER_MACHINE=4 ENGINE=fsdp2 \
        launchers/multinode.sh train --preset pets batch.effective=1024

The perturbations are the same, whichever of these is used (docs/design.md, invariant 1).
This module is run, not imported: in Python, `bigbatch_ue.train` is the function (docs/python.md).
"""

import sys

from bigbatch_ue.cli.commands import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
