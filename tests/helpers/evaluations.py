"""Evaluation folders made of records, without any training."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bigbatch_ue.evaluation.arms import Arm, save_arms
from tests.helpers.records import an_arm

VISIBILITY: dict[str, Any] = {
    "images": 1000,
    "unchanged": 3,
    "linf": 16,
    "l2_mean": 1.234,
    "psnr_mean": 25.0,
    "psnr_min": 24.1,
    "ssim_mean": 0.9,
}


def origin(eps: float = 16 / 255, **settings: Any) -> dict[str, Any]:
    """Settings of a run with clusters by labels."""
    return {
        "clusters": {"by": "labels", "count": 4},
        "generator": {"eps": eps, "width": 64},
        "surrogate": {"model": "resnet18"},
        "budget": {"steps": 60},
        **settings,
    }


def a_result(accuracy: float, *, images: Sequence[int] = (50, 50, 50, 50), **changed: Any) -> Arm:
    """A record whose confusion matrix has `accuracy` in each class of so many test images."""
    right = [round(accuracy * count) for count in images]
    rows = [[0] * len(images) for _ in images]
    for label, (good, count) in enumerate(zip(right, images, strict=True)):
        rows[label][label] = good
        rows[label][label - 1] += count - good
    recalls = [good / count for good, count in zip(right, images, strict=True)]
    measured = {
        "final_accuracy": sum(right) / sum(images),
        "balanced_accuracy": sum(recalls) / len(recalls),
        "confusion": rows,
    }
    return replace(an_arm(accuracy), **measured | changed)


def over_seeds(accuracies: Sequence[float], arm: str, **changed: Any) -> list[Arm]:
    """Records of one arm, with seeds from 0 on."""
    known = {"arm": arm, **({"fraction": 0.0} if arm == "clean" else {}), **changed}
    return [
        a_result(accuracy, seed=seed, inputs=f"{arm}-{accuracy}-{seed}", **known)
        for seed, accuracy in enumerate(accuracies)
    ]


def write_evaluation(folder: Path, arms: Sequence[Arm], **about: Any) -> Path:
    """Write `results.json` and `about.json`; without a picture or a page."""
    metadata = {
        "dataset": arms[0].dataset,
        "command": "bigbatch-ue evaluate runs/digits",
        "visibility": VISIBILITY,
        "measured_on": "the written files",
        "wanted": len(arms),
        "notes": [],
        "settings": {"data": {"name": "digits", "size": 8}},
        "versions": {"bigbatch_ue": "0.1.0"},
        "images": "0123456789ab",
        "origin": origin(),
    }
    save_arms(folder / "results.json", list(arms))
    (folder / "about.json").write_text(json.dumps(metadata | about))
    return folder
