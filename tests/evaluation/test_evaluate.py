"""`evaluate`: each arm once, whoever trains it, and everything that is written of the results."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bigbatch_ue.config.load import load_config
from bigbatch_ue.evaluation import arm_store
from bigbatch_ue.evaluation.arms import Arm, ArmSpec
from bigbatch_ue.evaluation.evaluate import evaluate, evaluate_external
from bigbatch_ue.evaluation.subject import protected_part
from bigbatch_ue.evaluation.train_arm import train_arm
from bigbatch_ue.files.formats import read_json
from bigbatch_ue.protection.protect import protect
from bigbatch_ue.runtime.errors import UserError
from tests.conftest import MakeNpz
from tests.helpers.images import make_images
from tests.helpers.records import same
from tests.helpers.runs import QUICK, make_run

ARMS = ["clean", "random_noise", "uc"]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arms trained in this test, in order."""
    names: list[str] = []

    def counting(case: ArmSpec, *rest: Any, **more: Any) -> Arm:
        names.append(case.arm)
        return train_arm(case, *rest, **more)

    monkeypatch.setattr(arm_store, "train_arm", counting)
    return names


def test_all_that_is_written(tmp_path: Path) -> None:
    run = make_run(tmp_path, *QUICK, "evaluation.fractions=[0.4, 1.0]")
    arms = evaluate(
        run,
        overrides=["evaluation.arms=[clean, unprotected, uc]", "evaluation.seeds=[0, 1]"],
        command=["bigbatch-ue", "evaluate", "a run"],
    )
    assert [(arm.arm, arm.fraction, arm.seed) for arm in arms[:4]] == [
        ("clean", 0.0, 0),
        ("unprotected", 0.4, 0),
        ("uc", 0.4, 0),
        ("uc", 1.0, 0),
    ]
    folder = run / "evaluation"
    records = read_json(folder / "results.json")
    asked = {"dataset", "arm", "countermeasure", "seed", "target"}
    asked |= {"final_accuracy", "peak_accuracy", "steps"}
    assert all(asked <= record.keys() for record in records)
    assert len(records) == len(arms) == 8
    chosen = read_json(folder / "protected-0.4-s1.json")
    assert chosen == protected_part(160, 0.4, 1).tolist()
    about = read_json(folder / "about.json")
    assert about["command"] == "bigbatch-ue evaluate 'a run'"
    assert about["wanted"] == 8
    assert about["visibility"]["linf"] == 16
    assert about["measured_on"] == "the images at training size"
    page = (folder / "report.html").read_text()
    assert "data:image/" in page
    assert len(list((folder / "tensorboard").iterdir())) == 8
    board = EventAccumulator(str(sorted((folder / "tensorboard").iterdir())[0])).Reload()
    assert "accuracy/test" in board.Tags()["scalars"]
    left = {path.name for path in folder.iterdir()}
    assert not [name for name in left if name.startswith(".")]


def test_written_files_are_what_is_measured_where_there_are_any(tmp_path: Path) -> None:
    run = make_run(tmp_path, *QUICK)
    protect(run)
    evaluate(run, overrides=["evaluation.arms=[uc]"])
    about = read_json(run / "evaluation" / "about.json")
    assert about["measured_on"] == "the written files"
    manifest = read_json(run / "protected" / "protected.json")
    assert about["visibility"] == manifest["report"]["visibility"]


def test_arms_are_resumed_one_by_one(
    tmp_path: Path, trainings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, *QUICK)
    through = arm_store.train_arm

    def interrupted(case: ArmSpec, *rest: Any, **more: Any) -> Arm:
        if case.arm == "uc":
            raise KeyboardInterrupt
        return through(case, *rest, **more)

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
    wider = ["evaluation.arms=[uc]", "target.model=resnet34", "target.args={channels: [4,4,4,4]}"]
    evaluate(run, overrides=wider)
    records = read_json(run / "evaluation" / "results.json")
    assert [record["target"] for record in records] == ["resnet18", "resnet34"]
    evaluate(run, overrides=["evaluation.arms=[uc]", "target.fit.lr=0.01"])
    records = read_json(run / "evaluation" / "results.json")
    assert [record["target"] for record in records] == ["resnet34", "resnet18"]
    assert len(trainings) == 3


@pytest.mark.parametrize("count", [2, 7])
def test_shards_together_are_the_whole(tmp_path: Path, trainings: list[str], count: int) -> None:
    run = make_run(tmp_path, *QUICK)
    overrides = ["evaluation.seeds=[0, 1]"]
    sizes = []
    for index in range(count, 0, -1):
        found = evaluate(run, overrides=overrides, shard=(index, count))
        sizes.append(len(found))
    assert sizes == sorted(sizes)
    assert sizes[0] <= -(-6 // count)
    assert sizes[-1] == len(trainings) == 6
    together = read_json(run / "evaluation" / "results.json")
    alone = make_run(tmp_path / "alone", *QUICK)
    evaluate(alone, overrides=overrides)
    expected = read_json(alone / "evaluation" / "results.json")
    assert [same(record) for record in together] == [same(record) for record in expected]


def test_arm_that_another_job_is_at_is_waited_for(tmp_path: Path, trainings: list[str]) -> None:
    run = make_run(tmp_path, *QUICK)
    arms = evaluate(run)
    place = tmp_path / "cache" / "targets" / f"{arms[0].inputs}.json"
    content = place.read_bytes()
    place.unlink()
    taken = threading.Event()

    def other_job() -> None:
        with FileLock(place.with_suffix(".lock")):
            taken.set()
            time.sleep(1)
            place.write_bytes(content)

    job = threading.Thread(target=other_job)
    job.start()
    assert taken.wait(10)
    assert evaluate(run) == arms
    job.join()
    assert trainings == ARMS


def test_random_surrogate_is_trained_once_with_the_runs_own_settings(tmp_path: Path) -> None:
    overrides = (*QUICK, "clusters.count=3", "generator.width=4", "budget.kind=steps")
    overrides += ("budget.steps=1", "surrogate.model=resnet18", "batch.effective=8")
    run = make_run(tmp_path, *overrides, "surrogate.args={channels: [8, 8, 8, 8]}")
    arms = evaluate(run, overrides=["evaluation.arms=[uc, random_surrogate]"])
    assert [arm.arm for arm in arms] == ["random_surrogate", "uc"]
    assert arms[0].accuracies != arms[1].accuracies
    control = run / "controls" / "random_surrogate"
    assert load_config(file=control / "config.yaml").surrogate.weights == "random"
    before = (control / "result.json").stat().st_mtime_ns
    evaluate(run, overrides=["evaluation.arms=[uc, random_surrogate]"])
    assert (control / "result.json").stat().st_mtime_ns == before


def test_what_makes_no_sense_is_left_out_and_said(tmp_path: Path) -> None:
    run = make_run(tmp_path, *QUICK, "surrogate.weights=random")
    arms = evaluate(
        run,
        overrides=[
            "evaluation.arms=[uc, random_surrogate]",
            "evaluation.countermeasures=[grey, bit_depth]",
        ],
    )
    assert [(arm.arm, arm.countermeasure) for arm in arms] == [("uc", "none"), ("uc", "bit_depth")]
    notes = " ".join(read_json(run / "evaluation" / "about.json")["notes"])
    assert "grey" in notes
    assert "random surrogate" in notes


def test_settings_of_the_run_cannot_change(tmp_path: Path) -> None:
    run = make_run(tmp_path, *QUICK)
    with pytest.raises(UserError, match=r"only target\.\*"):
        evaluate(run, overrides=["batch.effective=9"])
    assert not (run / "evaluation").exists()


def own_png(folder: Path, make_npz: MakeNpz) -> tuple[list[str], Path]:
    return [f"data.name=folder:{make_images(folder / 'own', [(12, 12)] * 6)}"], folder


def own_npz(folder: Path, make_npz: MakeNpz) -> tuple[list[str], Path]:
    return [f"data.name=npz:{make_npz(channels=(3,))}"], folder


@pytest.mark.parametrize("make", [own_png, own_npz])
def test_foreign_images_are_judged_like_our_own(
    tmp_path: Path, make_npz: MakeNpz, make: Callable[..., tuple[list[str], Path]]
) -> None:
    """The files that `protect` wrote, taken for someone else's: the same target, bit for bit."""
    name, _ = make(tmp_path, make_npz)
    settings = [*QUICK, *name, "data.limit=null", "data.size=12", "target.fit.batch=6"]
    run = make_run(tmp_path, *settings)
    written = protect(run, at="training")
    (ours,) = evaluate(run, overrides=["evaluation.arms=[uc]"])
    config = load_config(
        overrides=[
            *settings,
            f"data.root={tmp_path / 'cache'}",
            f"output={tmp_path / 'theirs'}",
            "evaluation.arms=[clean, random_noise, shuffled, random_surrogate, uc]",
        ]
    )
    place = next(written.folder.glob("*.npz"), written.folder)
    kind = "npz" if place.suffix == ".npz" else "folder"
    theirs = {arm.arm: arm for arm in evaluate_external(config, f"{kind}:{place}")}
    assert list(theirs) == ["clean", "random_noise", "shuffled", "protected"]
    assert theirs["protected"].accuracies == ours.accuracies
    assert theirs["protected"].losses == ours.losses
    assert theirs["protected"].effective_batch is None
    about = json.loads((tmp_path / "theirs" / "evaluation" / "about.json").read_text())
    assert about["visibility"]["linf"] == 16
    assert np.isfinite(about["visibility"]["psnr_mean"])


def test_single_class_is_refused(tmp_path: Path, make_npz: MakeNpz) -> None:
    labels = {
        f"{part}_labels": np.zeros(count, np.uint8) for part, count in (("train", 12), ("test", 6))
    }
    npz = make_npz(**labels)
    run = make_run(tmp_path, *QUICK, f"data.name=npz:{npz}", "data.limit=null")
    with pytest.raises(UserError, match="single class"):
        evaluate(run)
