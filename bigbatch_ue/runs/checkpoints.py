"""Checkpoints: training states that a run can be resumed from."""

import shutil
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from bigbatch_ue.files.tensor_files import read_tensors, write_tensors
from bigbatch_ue.runs.folder import Run
from bigbatch_ue.runtime.errors import UserError


@dataclass(frozen=True)
class Checkpoint:
    """A training state.

    Attributes:
        step: optimizer steps taken, skipped ones included.
        state: parameters and optimizer state by name (`Engine.state`); empty at step 0.
        skipped: number of steps that were skipped.
    """

    step: int = 0
    state: dict[str, Tensor] = field(default_factory=dict)
    skipped: int = 0


NEW = Checkpoint()


def save_checkpoint(run: Run, checkpoint: Checkpoint, keep: int) -> None:
    """Write `checkpoint`; then delete those of later steps, and all but the newest `keep`."""
    path = run.checkpoints / f"step-{checkpoint.step:08d}.safetensors"
    about = {"step": checkpoint.step, "skipped": checkpoint.skipped, "answer": run.answer}
    write_tensors(path, checkpoint.state, about)
    files = _checkpoint_files(run)
    end = files.index(path) + 1
    for other in files[: max(end - keep, 0)] + files[end:]:
        other.unlink()


def load_checkpoint(run: Run) -> Checkpoint:
    """Load the newest undamaged checkpoint, or return `NEW` if there is none.

    A warning names each damaged one.

    Raises:
        UserError: the checkpoint belongs to another run.
    """
    for path in reversed(_checkpoint_files(run)):
        try:
            state, about = read_tensors(path)
            checkpoint = Checkpoint(int(about["step"]), state, int(about.get("skipped", 0)))
        except (UserError, KeyError, TypeError, ValueError) as error:
            reason = str(error) if isinstance(error, UserError) else f"{path}: not a checkpoint"
            warnings.warn(f"{reason}; resuming from the checkpoint before it", stacklevel=2)
            continue
        if about.get("answer") != run.answer:
            raise UserError(
                f"{path}: belongs to another configuration or data set; "
                "choose another folder with output=..."
            )
        return checkpoint
    return NEW


def delete_checkpoints(run: Run) -> None:
    """Delete all checkpoints: a finished run does not need them."""
    shutil.rmtree(run.checkpoints, ignore_errors=True)


def _checkpoint_files(run: Run) -> list[Path]:
    return sorted(run.checkpoints.glob("step-*.safetensors"))
