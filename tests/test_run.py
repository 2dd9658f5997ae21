"""The run's folder: metrics, checkpoints, and which runs may go on."""

import json
from pathlib import Path

import pytest
import torch

from bigbatch_ue.errors import UserError
from bigbatch_ue.run import Run, create_run, load_run, open_run
from bigbatch_ue.settings import load


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


def test_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    run = Run(tmp_path, "answer")
    assert run.load_checkpoint() == (0, {})
    for step in (2, 4, 10):
        run.save_checkpoint(step, {"parameter/x": torch.tensor([float(step)])}, keep=2)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000004.safetensors", "step-00000010.safetensors"]
    step, state = run.load_checkpoint()
    assert step == 10
    assert state["parameter/x"].item() == 10


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    Run(tmp_path, "one").save_checkpoint(2, {"x": torch.zeros(1)}, keep=2)
    with pytest.raises(UserError, match="another configuration"):
        Run(tmp_path, "other").load_checkpoint()


def test_a_torn_checkpoint_is_named(tmp_path: Path) -> None:
    run = Run(tmp_path, "answer")
    run.save_checkpoint(2, {"x": torch.zeros(100)}, keep=2)
    (path,) = (tmp_path / "checkpoints").iterdir()
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UserError, match=r"step-00000002"):
        run.load_checkpoint()


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
