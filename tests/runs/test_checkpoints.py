"""Checkpoints: the newest undamaged one is used, and only by the run that wrote it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bigbatch_ue.runs.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from bigbatch_ue.runs.folder import Run
from bigbatch_ue.runtime.errors import UserError


def state(value: float) -> dict[str, torch.Tensor]:
    return {"parameter/x": torch.full([100], value)}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Make a run with checkpoints of steps 4 and 10."""
    made = Run(tmp_path, "answer")
    for step in (2, 4, 10):
        save_checkpoint(made, Checkpoint(step, state(step), skipped=1), keep=2)
    return made


def steps(run: Run) -> list[int]:
    return sorted(int(path.stem.removeprefix("step-")) for path in run.checkpoints.iterdir())


def test_the_newest_checkpoints_are_kept(run: Run) -> None:
    assert steps(run) == [4, 10]
    checkpoint = load_checkpoint(run)
    assert (checkpoint.step, checkpoint.skipped) == (10, 1)
    assert torch.equal(checkpoint.state["parameter/x"], state(10)["parameter/x"])


def test_a_new_run_has_no_checkpoint(tmp_path: Path) -> None:
    assert load_checkpoint(Run(tmp_path, "answer")) == Checkpoint(0, {}, 0)


def test_a_checkpoint_of_another_run_is_refused(run: Run) -> None:
    with pytest.raises(UserError, match="another configuration"):
        load_checkpoint(Run(run.folder, "other"))


def torn(content: bytes) -> bytes:
    return content[:-8]


def flipped(content: bytes) -> bytes:
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


def renumbered(content: bytes) -> bytes:
    """Change the step in the metadata, not its length."""
    changed = content.replace(b'step\\": 10', b'step\\": 11')
    assert changed != content
    return changed


@pytest.mark.parametrize("damage", [torn, flipped, renumbered, lambda content: b""])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    damage: Callable[[bytes], bytes], run: Run
) -> None:
    newest = run.checkpoints / "step-00000010.safetensors"
    newest.write_bytes(damage(newest.read_bytes()))
    with pytest.warns(UserWarning, match=r"step-00000010.*resuming from the checkpoint before it"):
        checkpoint = load_checkpoint(run)
    assert checkpoint.step == 4
    assert torch.equal(checkpoint.state["parameter/x"], state(4)["parameter/x"])

    save_checkpoint(run, Checkpoint(6, state(6)), keep=2)
    assert steps(run) == [4, 6], "checkpoints of later steps are deleted"


def test_without_a_complete_checkpoint_training_starts_again(run: Run) -> None:
    for path in run.checkpoints.iterdir():
        path.write_bytes(torn(path.read_bytes()))
    with pytest.warns(UserWarning, match="step-00000004"):
        assert load_checkpoint(run).step == 0
