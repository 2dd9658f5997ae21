"""One rank of the distributed tests: trains tiny banks through the real engine.

Usage, in each rank: THIS OUT [CONFIG] CASE... [CONFIG CASE...]
Cases (tests/helpers/trainer.py) after the path of another configuration of Accelerate are trained
under its engine, and written to a folder of OUT that has its name.
"""

import math
import os
import sys
from pathlib import Path

import torch
from accelerate import Accelerator

from bigbatch_ue.files.tensor_files import read_tensors, write_tensors
from bigbatch_ue.networks import sizes
from bigbatch_ue.runs.checkpoints import Checkpoint
from bigbatch_ue.runtime.accelerator import start_accelerator
from bigbatch_ue.training.engine import bank_parameters
from tests.helpers.launched import become
from tests.helpers.trainer import Trainer


def run_case(accelerator: Accelerator, case: str, out: Path) -> None:
    """Train once; from the middle, train again from a state on disk, perhaps another engine's.

    With Adam, the bank counts as a large one, which computes its activations twice.
    """
    sizes._HELD_BY_A_SMALL_BANK = 0 if "adam" in case else 2**26
    trainer = Trainer(accelerator, case)
    engine = trainer.engine()
    before = engine.state()
    middle = trainer.steps // 2
    if middle:
        trainer.train(engine, 0, middle)
    state = engine.state()
    losses = trainer.train(engine, middle, trainer.steps)
    after, delta = engine.state(), engine.current_perturbations()
    with torch.no_grad():
        gathered = engine.gather_bank()()
    moved = {
        f"moved/{k}": v - bank_parameters(before)[k] for k, v in bank_parameters(after).items()
    }
    tensors = {"delta": delta, "losses": losses, **moved}
    facts = {
        "kind": engine.name,
        "bank": type(engine.bank).__name__,
        "recomputes": accelerator.unwrap_model(engine.bank).recomputes,
        "world_size": accelerator.num_processes,
        "micro_batches": trainer.plan.micro_batches,
        "gather_bank_differs_by": float((gathered - delta).abs().max()),
        "noise": {space: _finite(moments.trace) for space, moments in trainer.noise.items()},
    }
    accelerator.free_memory(engine)
    if middle:
        if accelerator.is_main_process:
            write_tensors(out / f"{case}.state.safetensors", state, {})
        accelerator.wait_for_everyone()
        elsewhere = Path(os.environ.get("RESUME_ENGINE_PATH_FROM", out))
        source = out if "delta" in case else elsewhere
        saved, _ = read_tensors(source / f"{case}.state.safetensors")
        resumed = trainer.engine(Checkpoint(middle, saved))
        trainer.train(resumed, middle, trainer.steps)
        tensors["resumed"] = resumed.current_perturbations()
        accelerator.free_memory(resumed)
    if accelerator.is_main_process:
        write_tensors(out / f"{case}.safetensors", tensors, facts)


def _finite(values: list[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]


def main(top: Path, words: list[str]) -> None:
    accelerator, out = start_accelerator(), top
    for word in words:
        if word.endswith(".yaml"):
            become(Path(word))
            accelerator, out = start_accelerator(), top / Path(word).stem
        else:
            run_case(accelerator, word, out)
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
