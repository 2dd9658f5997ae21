"""The run's folder: metrics, checkpoints, and which runs may go on."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bigbatch_ue.config.load import load
from bigbatch_ue.runs.checkpoints import Checkpoint
from bigbatch_ue.runs.folder import Run, create_run, load_run, open_run
from bigbatch_ue.runtime.errors import UserError


def test_metrics_of_steps_to_be_done_again_are_dropped_and_so_is_a_torn_line(
    tmp_path: Path,
) -> None:
    run = Run(tmp_path, "answer")
    whole = [json.dumps({"step": step}) for step in range(6)]
    run.metrics.write_text("\n".join(whole) + '\n{"step": 6, "lo')
    run.forget_metrics_from(4)
    assert run.metrics.read_text().splitlines() == whole[:4]
    run.forget_metrics_from(0)
    assert run.metrics.read_text() == ""


def state(value: float) -> dict[str, torch.Tensor]:
    return {"parameter/x": torch.full([100], value)}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with checkpoints of steps 4 and 10."""
    made = Run(tmp_path, "answer")
    for step in (2, 4, 10):
        made.save_checkpoint(Checkpoint(step, state(step), skipped=1), keep=2)
    return made


def steps(run: Run) -> list[int]:
    return sorted(int(path.stem.removeprefix("step-")) for path in run.checkpoints.iterdir())


def test_the_newest_checkpoints_are_kept(run: Run) -> None:
    assert steps(run) == [4, 10]
    found = run.load_checkpoint()
    assert (found.step, found.skipped) == (10, 1)
    assert torch.equal(found.state["parameter/x"], state(10)["parameter/x"])


def test_a_new_run_has_no_checkpoint(tmp_path: Path) -> None:
    assert Run(tmp_path, "answer").load_checkpoint() == Checkpoint(0, {}, 0)


def test_a_checkpoint_of_another_run_is_refused(run: Run) -> None:
    with pytest.raises(UserError, match="another configuration"):
        Run(run.folder, "other").load_checkpoint()


def torn(content: bytes) -> bytes:
    return content[:-8]


def flipped(content: bytes) -> bytes:
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


def renumbered(content: bytes) -> bytes:
    """Its metadata says another step; as long as before."""
    changed = content.replace(b'step\\": 10', b'step\\": 11')
    assert changed != content
    return changed


@pytest.mark.parametrize("damage", [torn, flipped, renumbered, lambda content: b""])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    damage: Callable[[bytes], bytes], run: Run
) -> None:
    newest = run.checkpoints / "step-00000010.safetensors"
    newest.write_bytes(damage(newest.read_bytes()))
    with pytest.warns(UserWarning, match=r"step-00000010.*going on from the one before"):
        found = run.load_checkpoint()
    assert found.step == 4
    assert torch.equal(found.state["parameter/x"], state(4)["parameter/x"])

    run.save_checkpoint(Checkpoint(6, state(6)), keep=2)
    assert steps(run) == [4, 6], "what is beyond where training went on from is gone"


def test_without_a_whole_checkpoint_training_begins_anew(run: Run) -> None:
    for path in run.checkpoints.iterdir():
        path.write_bytes(torn(path.read_bytes()))
    with pytest.warns(UserWarning, match="step-00000004"):
        assert run.load_checkpoint().step == 0


def test_one_process_at_a_time_trains_a_run(tmp_path: Path) -> None:
    with (
        Run(tmp_path, "answer").held(),
        pytest.raises(UserError, match="another process is training this run"),
        Run(tmp_path, "answer").held(),
    ):
        pass
    with Run(tmp_path, "answer").held():
        pass


def test_unfinished_runs_need_resume_and_finished_ones_are_only_opened(tmp_path: Path) -> None:
    config = load("digits", overrides=[f"output={tmp_path / 'run'}"])
    run = open_run(config, "data", resume=False)
    create_run(run, config, "data")
    with pytest.raises(UserError, match="add --resume"):
        open_run(config, "data", resume=False)
    with pytest.raises(UserError, match="not finished"):
        load_run(run.folder)
    assert open_run(config, "data", resume=True) == run
    run.result.write_text("{}")
    assert open_run(config, "data", resume=False).finished
    assert load_run(run.folder) == (config, run)


def test_decomposition_may_change_but_settings_and_data_may_not(tmp_path: Path) -> None:
    place = f"output={tmp_path / 'run'}"
    config = load("digits", overrides=[place])
    create_run(open_run(config, "data", resume=False), config, "data")
    other_cut = load("digits", overrides=[place, "batch.micro=3", "batch.accumulation=engine"])
    open_run(other_cut, "data", resume=True)
    with pytest.raises(UserError, match=r"seed: 0 -> 1"):
        open_run(load("digits", overrides=[place, "seed=1"]), "data", resume=True)
    with pytest.raises(UserError, match="data set has changed"):
        open_run(config, "other data", resume=True)
