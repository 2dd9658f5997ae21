r"""What a rank holds between optimizer steps under an engine: bank, gradients, optimizer state.

    python -m bigbatch_ue.launch --config_file launchers/accelerate/zero2.yaml \
        analysis/examples/engines/memory.py 20

for 20 generators of width 64; prints the anonymous memory that came with them, on the CPU.
"""

import re
import sys
from pathlib import Path

from bigbatch_ue.config.schema import Config
from bigbatch_ue.networks.generator import GeneratorBank
from bigbatch_ue.runtime.accelerator import start_accelerator
from bigbatch_ue.runtime.memory import return_freed_memory
from bigbatch_ue.training.engine import Engine


def anonymous() -> float:
    """Anonymous memory of this process, in MiB."""
    return_freed_memory()
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def main(generators: int) -> None:
    """Train two steps, and measure."""
    accelerator = start_accelerator()
    config = Config.model_validate({"generator": {"width": 64}})
    before = anonymous()
    bank = GeneratorBank(generators, 1, 16, config.generator, config.seed)
    parameters = sum(parameter.numel() for parameter in bank.parameters())
    engine = Engine(accelerator, bank, config.optimizer, 1)
    del bank
    for _ in range(2):
        with engine.accumulating(1e-4):
            delta = engine.perturbations()
            engine.backward(delta.square().sum())
            del delta
    held = anonymous() - before
    if accelerator.is_main_process:
        ranks = f"{accelerator.num_processes} rank(s)"
        each = f"{held * 2**20 / parameters:.1f} bytes a parameter"
        print(f"{engine.name}, {ranks}, p = {generators}: {held:,.0f} MiB, {each}")
    accelerator.end_training()


if __name__ == "__main__":
    main(int(sys.argv[1]))
