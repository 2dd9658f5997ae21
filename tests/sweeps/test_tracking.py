"""A sweep under trackers: its cells are runs of one store, wherever they were trained."""

from pathlib import Path

import pytest

from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.sweeps.jobs import run_sweep
from bigbatch_ue.sweeps.spec import load_sweep
from tests.helpers.sweeps import TINY, write
from tests.helpers.tracked import mlflow_runs, wandb_runs


def test_the_cells_of_a_sweep_are_runs_of_one_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**TINY, "data": {**TINY["data"], "root": str(tmp_path / "data")}}
    settings["tracking"] = ["mlflow", "wandb"]
    sweep = load_sweep(write(tmp_path, settings=settings, seeds=[0], protect=False))
    cells = run_sweep(sweep)
    assert [outcome and outcome.state for _, outcome in cells] == ["finished"] * 2
    runs = mlflow_runs(tmp_path / "sweep" / "mlflow", monkeypatch)
    trained = [run for run in runs if run.labels["stage"] == "training"]
    assert [run.name for run in trained] == [f"sweep/cells/{cell.name}" for cell, _ in cells]
    assert [run.settings["batch.effective"] for run in trained] == ["4", "16"]
    arms = [run.settings for run in runs if run.labels["stage"] == "evaluation"]
    assert [arm["effective_batch"] for arm in arms if arm["arm"] == "uc"] == ["4", "16"]
    assert len(arms) == 2 * 3
    for cell, _ in cells:
        assert len(wandb_runs(cell.files.folder)) == 1
        assert {run.labels["group"] for run in wandb_runs(cell.files.evaluation)} == {"sweep"}
        assert not cell.files.tensorboard.exists()


def test_a_tracker_that_is_not_known_stops_the_sweep_at_once(tmp_path: Path) -> None:
    sweep = load_sweep(write(tmp_path, settings={**TINY, "tracking": ["aim"]}))
    with pytest.raises(UserError, match=r"^tracking='aim': must be 'tensorboard', 'wandb'"):
        run_sweep(sweep)
