"""Evaluations under wandb and MLflow: one run for each arm, with what TensorBoard has."""

from dataclasses import replace
from pathlib import Path

import pytest
from accelerate import PartialState

from bigbatch_ue.config.names import TrackerName
from bigbatch_ue.evaluation.evaluate import evaluate
from bigbatch_ue.evaluation.report.tracking import track_arms
from bigbatch_ue.runs.folder import RunFiles
from tests.helpers.records import clean, own
from tests.helpers.runs import QUICK, make_run
from tests.helpers.tracked import mlflow_runs, tensorboard_scalars, wandb_runs

BOTH = (TrackerName.TENSORBOARD, TrackerName.WANDB, TrackerName.MLFLOW)


def test_each_arm_is_a_run_with_the_scalars_of_tensorboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, *QUICK, "evaluation.arms=[clean, uc]")
    evaluate(run, overrides=["tracking=[tensorboard, wandb, mlflow]"])
    folder = run / "evaluation"
    boards = sorted((folder / "tensorboard").iterdir())
    shown, other = mlflow_runs(run / "mlflow", monkeypatch), wandb_runs(folder)
    names = [f"run/evaluation/{board.name}" for board in boards]
    assert [tracked.name for tracked in shown] == [tracked.name for tracked in other] == names
    for board, one, two in zip(boards, shown, other, strict=True):
        scalars = tensorboard_scalars(board)
        assert {tag for tag, _ in scalars} >= {"accuracy/test", "final_accuracy"}
        assert one.scalars == pytest.approx(scalars, rel=1e-6)
        assert two.scalars == pytest.approx(scalars, rel=1e-6)
        assert [*one.pictures] == [*two.pictures] == [("confusion", 1)]
        assert one.settings["arm"] == two.settings["arm"] in board.name
        assert one.labels["stage"] == two.labels["stage"] == "evaluation"
        assert one.labels["group"] == two.labels["group"] == "run"
    assert shown[1].settings["effective_batch"] == "4"
    evaluate(run, overrides=["tracking=[wandb]", "evaluation.seeds=[0, 1]"])
    assert len(wandb_runs(folder)) == 4, "an arm that is tracked is not tracked again"
    assert len(list((folder / "tensorboard").iterdir())) == 2


def test_a_file_of_labels_is_shown_without_its_folder(tmp_path: Path) -> None:
    PartialState()
    folder = RunFiles(tmp_path / "run").evaluation
    track_arms(folder, [clean(labels="map:/home/zoe/two.yaml")], [TrackerName.WANDB])
    (tracked,) = wandb_runs(folder)
    assert tracked.settings["labels"] == "two.yaml"
    assert not [path for path in folder.glob("wandb/*/*.wandb") if b"zoe" in path.read_bytes()]


def test_a_server_that_is_gone_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    PartialState()
    folder = RunFiles(tmp_path / "run").evaluation
    arms = [clean(inputs="a"), replace(own(0.5), inputs="b")]
    track_arms(folder, arms, BOTH)
    assert capsys.readouterr().err.count("tracking=mlflow") == 1
    assert len(wandb_runs(folder)) == 2
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    track_arms(folder, arms, BOTH)
    assert len(mlflow_runs(tmp_path / "run" / "mlflow", monkeypatch)) == 2
    assert len(wandb_runs(folder)) == 2
