import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bigbatch_ue.cli import demo as module
from bigbatch_ue.cli.demo import BATCHES, demo, demo_config, sentence
from bigbatch_ue.data.source import to_hwc
from bigbatch_ue.evaluation.arms import Arm
from bigbatch_ue.evaluation.report import pictures
from bigbatch_ue.evaluation.report.pictures import ROWS, first_of_each_group, picture_grid
from tests.helpers.records import arm as record
from tests.helpers.runs import undrawn


def tiny(root: Path) -> list[str]:
    return [
        f"data.root={root}",
        "data.size=8",
        "data.limit=90",
        "clusters.count=3",
        "surrogate.args={channels: [8, 8, 16, 16], layers: [1, 1, 1, 1]}",
        "surrogate.fit={epochs: 1, batch: 64, lr: 0.05}",
        "generator.width=4",
        "budget.steps=2",
        "target.args={channels: [8, 8, 16, 16], layers: [1, 1, 1, 1]}",
        "target.fit={epochs: 2, batch: 64, lr: 0.05}",
    ]


def test_batches_differ_by_at_least_sixteen_and_take_equal_steps(tmp_path: Path) -> None:
    assert len(set(BATCHES)) == 3
    assert max(BATCHES) >= 16 * min(BATCHES)
    configs = [demo_config(tmp_path, batch, 3) for batch in BATCHES]
    assert [config.batch.effective for config in configs] == list(BATCHES)
    assert len({config.run_folder for config in configs}) == 3
    assert {(config.budget.kind, config.budget.steps) for config in configs} == {("steps", 60)}


def test_demo_does_it_all_and_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(module, "BATCHES", (2, 8, 32))
    monkeypatch.setattr(module, "PROTECTED", 32)
    folder = tmp_path / "demo"
    summary = demo(folder, seed=1, overrides=tiny(tmp_path / "data"))
    content = json.loads(summary.read_text())
    assert (content["seed"], content["dataset"]) == (1, "digits")
    assert set(content["versions"]) == {"bigbatch_ue", "torch"}
    arms = content["arms"]
    expected = [("clean", None), ("random_noise", None), ("uc", 2), ("uc", 8), ("uc", 32)]
    assert [(arm["name"], arm["effective_batch"]) for arm in arms] == expected
    assert [arm["optimizer_steps"] for arm in arms] == [0, 0, 2, 2, 2]
    assert all(0 <= arm["final_accuracy"] <= arm["peak_accuracy"] <= 1 for arm in arms)
    assert all(arm["seconds"] > 0 for arm in arms)
    assert len(list((folder / "b32-s1" / "protected").rglob("*.png"))) == 90
    for batch in (2, 8, 32):
        Image.open(folder / f"b{batch}-s1" / "evaluation" / "differences.png").verify()
    assert len(json.loads((folder / "results.json").read_text())) == 5
    first = capsys.readouterr().out
    assert "A network trained on protected digits" in first
    assert str(folder / "report.html") in first

    kept = (
        "result.json",
        "perturbations.safetensors",
        "evaluation/results.json",
        "protected/protected.json",
    )
    files = [folder / f"b{batch}-s1" / name for batch in (2, 8, 32) for name in kept[:3]]
    files.append(folder / "b32-s1" / kept[3])
    before = [file.stat().st_mtime_ns for file in files]
    with undrawn():
        demo(folder, seed=1, overrides=tiny(tmp_path / "data"))
    assert [file.stat().st_mtime_ns for file in files] == before
    assert json.loads(summary.read_text()) == content


def test_sentence_says_what_the_arms_show() -> None:
    def arm(name: str, accuracy: float, batch: int | None = None) -> Arm:
        return record(arm=name, final_accuracy=accuracy, effective_batch=batch)

    said = sentence(
        [arm("clean", 0.981), arm("random_noise", 0.97), arm("uc", 0.41, 8), arm("uc", 0.3, 128)]
    )
    for part in (
        "41.0 / 30.0 % of",
        "8 / 128",
        "unprotected digits gets 98.1 %",
        "noise of the same size 97.0 %",
    ):
        assert part in said


def test_examples_are_of_different_clusters() -> None:
    assignment = np.array([2, 2, 0, 1, 0, 2])
    assert first_of_each_group(assignment, 8).tolist() == [2, 3, 0]
    assert first_of_each_group(assignment, 2).tolist() == [2, 3]


@pytest.mark.parametrize("channels", [1, 3])
def test_picture_shows_clean_over_protected_over_amplified_difference(
    tmp_path: Path, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    originals = np.full((3, channels, 8, 8), 100, np.uint8)
    protected = originals.copy()
    protected[:, :, :4] += 16
    shown: list[np.ndarray] = []
    monkeypatch.setattr(pictures, "to_hwc", lambda image: shown.append(image) or to_hwc(image))
    path = tmp_path / "picture.png"
    picture_grid(path, originals, protected, ["a", "b", "c"], "heading")
    assert len(shown) == len(ROWS) * 3
    assert [np.unique(image).tolist() for image in shown[::3]] == [[100], [100, 116], [128, 255]]
    picture = Image.open(path)
    assert picture.format == "PNG"
    assert min(picture.size) > 300
    first = path.read_bytes()
    picture_grid(path, originals, protected, ["a", "b", "c"], "heading")
    assert path.read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == ["picture.png"]
