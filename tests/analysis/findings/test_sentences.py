import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from analysis.findings.sentences import distinction, label, recommendation
from tests.helpers.findings import a_curve, a_finding, a_fit

REACHED = "A network then recognises 38 % [33, 43] of clean test images, instead of 99 %."
NEAR = "By the fitted curve, any B from 32 to 128 is within 5 points of that."


@pytest.mark.parametrize(
    ("changed", "advice"),
    [
        ({}, f"train with B = 64 (95 % interval 32 to 128). {REACHED} {NEAR}"),
        (
            {"plateau": (64, 64), "margin": 0.005},
            f"train with B = 64 (95 % interval 32 to 128). {REACHED} "
            "By the fitted curve, only 64 of the sizes tried is within 0.5 points of that.",
        ),
        (
            {"verdict": "at least", "optimum": 128.0, "interval": (64.0, 128.0)},
            "train with B of at least 128 (95 % interval 64 to 128); protection still improves at "
            f"the largest batch tried. {REACHED} {NEAR}",
        ),
        (
            {"verdict": "at least", "optimum": 64.0},
            "train with B of at least 64 (95 % interval 32 to 128); it is equally good from there "
            f"to the largest batch tried. {REACHED} {NEAR}",
        ),
        (
            {"verdict": "at most", "optimum": 16.0, "interval": (16.0, 31.0)},
            "train with B of at most 16 (95 % interval 16 to 31); protection still improves at the "
            f"smallest batch tried. {REACHED} {NEAR}",
        ),
        (
            {"verdict": "at most", "optimum": 32.0},
            "train with B of at most 32 (95 % interval 32 to 128); it is equally good from there "
            f"to the smallest batch tried. {REACHED} {NEAR}",
        ),
        (
            {"verdict": "cannot tell", "optimum": None, "interval": None, "flat_p": 0.412},
            "whether B matters cannot be told (p = 0.41; sizes may differ by up to 31 points). "
            "Train with B = 64, where the expected accuracy is lowest, or buy more seeds. "
            f"{REACHED}",
        ),
        (
            {"verdict": "equivalent", "optimum": None, "interval": None, "difference": 0.041},
            f"the sizes tried differ by less than 5 points; use whichever B is fastest. {REACHED}",
        ),
        (
            {"best": 0.95, "best_interval": (0.942, 0.975)},
            "not protected at any batch size tried. At best, a network still recognises 95 % "
            "[94, 98] of clean test images, instead of 99 %.",
        ),
        (
            {"best": 0.85, "best_interval": (0.6, 0.975)},
            "protection is not shown at any batch size tried. At best, a network still recognises "
            "85 % [60, 98] of clean test images, instead of 99 %.",
        ),
    ],
)
def test_the_recommendation_says_which_batch_and_how_certain(
    changed: dict[str, Any], advice: str
) -> None:
    assert recommendation(a_finding(a_fit(**changed))) == f"digits at equal steps: {advice}"


def test_the_recommendation_warns_of_failures_and_of_noise_that_protects_as_well() -> None:
    failed = np.array([2, 0, 1, 0])
    said = recommendation(a_finding(failed=failed, noise=0.41, scope="all", arm="protected 80%"))
    assert said.startswith("digits, protected 80% at equal steps, scope all: train with B = 64")
    assert "Random noise alone protects as well (41 %)." in said
    assert said.endswith("3 of 15 runs failed (2 at B = 16, 1 at B = 64).")


def test_no_clean_accuracy_means_no_comparison() -> None:
    said = recommendation(a_finding(clean=math.nan, noise=math.nan))
    assert "recognises 38 % [33, 43] of clean test images. By the fitted curve, any B" in said


def test_curves_are_told_apart_by_what_differs_only() -> None:
    one = a_curve()
    assert distinction(one, [one, replace(one, budget="epochs")]) == ""
    other = replace(one, lr_rule="sqrt", arm="random surrogate")
    assert distinction(other, [one, other]) == "random surrogate, sqrt learning rate"
    assert distinction(one, [one, other], arm=False) == "unscaled learning rate"
    assert label(one, [one, replace(other, dataset="blood8")]) == "digits"
