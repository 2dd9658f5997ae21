"""`evaluate` and `evaluate_external`: the arms of a run, of shards, and of external images."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bigbatch_ue.config.load import load_config
from bigbatch_ue.evaluation.evaluate import evaluate, evaluate_external
from bigbatch_ue.files.formats import read_json, write_json
from bigbatch_ue.protection.protect import protect
from bigbatch_ue.runtime.errors import UserError
from tests.conftest import MakeNpz
from tests.helpers.images import make_images
from tests.helpers.records import same
from tests.helpers.runs import QUICK, make_run

pytestmark = pytest.mark.usefixtures("no_drawings")


def test_shards_together_are_the_whole(tmp_path: Path, trainings: list[str]) -> None:
    count = 4
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


def test_random_surrogate_is_trained_once_with_the_runs_own_settings(tmp_path: Path) -> None:
    overrides = (*QUICK, "clusters.count=3", "generator.width=4", "budget.kind=steps")
    overrides += ("budget.steps=1", "surrogate.model=resnet18", "batch.effective=8")
    run = make_run(tmp_path, *overrides, "surrogate.args={channels: [8, 8, 8, 8]}")
    arms = evaluate(run, overrides=["evaluation.arms=[uc, random_surrogate]"])
    assert [arm.arm for arm in arms] == ["random_surrogate", "uc"]
    assert arms[0].losses != arms[1].losses
    control = run / "controls" / "random_surrogate"
    assert load_config(file=control / "config.yaml").surrogate.weights == "random"
    before = (control / "result.json").stat().st_mtime_ns
    evaluate(run, overrides=["evaluation.arms=[uc, random_surrogate]"])
    assert (control / "result.json").stat().st_mtime_ns == before


def test_inapplicable_arms_are_left_out_with_a_note(tmp_path: Path) -> None:
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


def test_arms_of_another_precision_are_taken_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, *QUICK)
    (own, *others) = evaluate(run)
    assert others
    assert "warning" not in capsys.readouterr().err
    other = "float32" if own.trained_in == "bf16" else "bf16"
    root = load_config(file=run / "config.yaml").data.root
    stored = root / "targets" / f"{own.inputs}.json"
    for precision, device in ((other, "cpu"), ("", "cuda" if other == "bf16" else "cpu")):
        (record,) = read_json(stored, list)
        write_json(stored, [record | {"precision": precision, "device": device}])
        evaluate(run)
        said = " ".join(capsys.readouterr().err.split())
        assert f"{len(others)} in {own.trained_in} and 1 in {other} were trained" in said


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
def test_external_images_are_evaluated_like_our_own(
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
    with pytest.raises(UserError, match="has a single class"):
        evaluate(run)
