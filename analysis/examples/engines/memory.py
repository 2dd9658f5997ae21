r"""Memory of a rank between optimizer steps: bank, gradients and optimizer state of an engine.

    python -m bigbatch_ue.launch --config_file launchers/accelerate/zero2.yaml \
        analysis/examples/engines/memory.py 20

prints the growth of the anonymous memory for 20 generators of width 64, on the CPU.
"""

import re
import sys
from pathlib import Path

from bigbatch_ue.config.schema import Config
from bigbatch_ue.networks.generator import GeneratorBank
from bigbatch_ue.reporting.words import counted
from bigbatch_ue.runtime.accelerator import start_accelerator
from bigbatch_ue.runtime.memory import return_freed_memory
from bigbatch_ue.training.engine import Engine


def anonymous_memory() -> float:
    """Return the anonymous memory of this process, in MiB."""
    return_freed_memory()
    line = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert line is not None
    return int(line[1]) / 1024


def main(generators: int) -> None:
    """Train two steps, and print the growth of memory."""
    accelerator = start_accelerator()
    config = Config.model_validate({"generator": {"width": 64}})
    before = anonymous_memory()
    bank = GeneratorBank(generators, 1, 16, config.generator, config.seed)
    parameters = sum(parameter.numel() for parameter in bank.parameters())
    engine = Engine(accelerator, bank, config.optimizer, 1)
    del bank
    for _ in range(2):
        with engine.accumulating(1e-4):
            delta = engine.perturbations()
            engine.backward(delta.square().sum())
            del delta
    growth = anonymous_memory() - before
    if accelerator.is_main_process:
        ranks = counted(accelerator.num_processes, "rank")
        each = f"{growth * 2**20 / parameters:.1f} bytes per parameter"
        print(f"{engine.name}, {ranks}, p = {generators}: {growth:,.0f} MiB, {each}")
    accelerator.end_training()


if __name__ == "__main__":
    main(int(sys.argv[1]))
