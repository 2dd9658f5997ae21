"""Stored arms: trained once, whoever asks for them."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from bigbatch_ue.evaluation import arm_store
from bigbatch_ue.evaluation.arms import Arm, ArmSpec
from bigbatch_ue.evaluation.evaluate import evaluate
from bigbatch_ue.files.formats import read_json
from tests.helpers.runs import QUICK, make_run

pytestmark = pytest.mark.usefixtures("no_drawings")

ARMS = ["clean", "random_noise", "uc"]


def test_arms_are_resumed_one_by_one(
    tmp_path: Path, trainings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, *QUICK)
    through = arm_store.train_arm

    def interrupted(spec: ArmSpec, *rest: Any, **more: Any) -> Arm:
        if spec.arm == "uc":
            raise KeyboardInterrupt
        return through(spec, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(arm_store, "train_arm", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluate(run)
    results = run / "evaluation" / "results.json"
    assert [record["arm"] for record in read_json(results)] == ARMS[:2]
    arms = evaluate(run)
    assert trainings == ARMS
    assert [record["arm"] for record in read_json(results)] == ARMS
    assert evaluate(run) == arms
    assert trainings == ARMS
    evaluate(run, overrides=["evaluation.seeds=[0, 1]"])
    assert trainings == [*ARMS, *ARMS]
    records = read_json(results)
    assert [(r["seed"], r["arm"]) for r in records] == [(s, n) for s in (0, 1) for n in ARMS]
    assert [r["effective_batch"] for r in records[:3]] == [None, None, 4]
    assert [r["optimizer_steps"] for r in records[:3]] == [0, 0, 7]


def test_runs_share_what_they_have_in_common(tmp_path: Path, trainings: list[str]) -> None:
    """Other perturbations: their own arm is trained, the controls are those of the other run."""
    first = make_run(tmp_path / "a", *QUICK, f"data.root={tmp_path / 'cache'}")
    second = make_run(tmp_path / "b", *QUICK, f"data.root={tmp_path / 'cache'}", scale=0.5)
    one, other = evaluate(first), evaluate(second)
    assert trainings == [*ARMS, "uc"]
    assert one[:2] == other[:2]
    assert one[2] != other[2]
    assert len(read_json(second / "evaluation" / "results.json")) == 3


def test_other_target_stands_beside_the_first(tmp_path: Path, trainings: list[str]) -> None:
    run = make_run(tmp_path, *QUICK)
    evaluate(run, overrides=["evaluation.arms=[uc]"])
    wider = ["evaluation.arms=[uc]", "target.model=resnet34", "target.args={channels: [8,8,8,8]}"]
    evaluate(run, overrides=wider)
    records = read_json(run / "evaluation" / "results.json")
    assert [record["target"] for record in records] == ["resnet18", "resnet34"]
    evaluate(run, overrides=["evaluation.arms=[uc]", "target.fit.lr=0.01"])
    records = read_json(run / "evaluation" / "results.json")
    assert [record["target"] for record in records] == ["resnet18", "resnet34", "resnet18"]
    assert records[2]["recipe"]["target"]["fit"]["lr"] == 0.01
    assert len(trainings) == 3


def test_arm_that_another_job_is_training_is_waited_for(
    tmp_path: Path, trainings: list[str]
) -> None:
    run = make_run(tmp_path, *QUICK)
    arms = evaluate(run)
    path = tmp_path / "cache" / "targets" / f"{arms[0].inputs}.json"
    content = path.read_bytes()
    path.unlink()
    taken = threading.Event()

    def other_job() -> None:
        with FileLock(path.with_suffix(".lock")):
            taken.set()
            time.sleep(1)
            path.write_bytes(content)

    job = threading.Thread(target=other_job)
    job.start()
    assert taken.wait(10)
    assert evaluate(run) == arms
    job.join()
    assert trainings == ARMS
