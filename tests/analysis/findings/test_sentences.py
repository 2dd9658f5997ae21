import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from analysis.findings.findings import Finding
from analysis.findings.sentences import distinction, label, recommendation, together_statement
from analysis.fits.failures import Rate, Unprotected, count_unprotected
from analysis.fits.spread_changes import SpreadChanges
from analysis.fits.together import Together
from analysis.table.table import Curve
from tests.helpers.findings import EQUIVALENT, a_curve, a_finding, a_fit, a_spread

REACHED = (
    "Networks then recognise, on average, 38 % [33, 43] of clean test images, instead of 99 %."
)
NEAR = "Shown to be within 5 points of the best size tried: 32 and 64."
MATTERS = "B matters (p = 0.003)"


@pytest.mark.parametrize(
    ("changed", "advice"),
    [
        ({}, f"{MATTERS}: train with B = 64 (95 % interval 32 to 128). {REACHED} {NEAR}"),
        (
            {"interval": (32.0, 64.0), "as_good": (), "margin": 0.005},
            f"{MATTERS}: train with B = 64 (95 % interval 32 to 64). {REACHED} "
            "No size is shown to be within 0.5 points of the best size tried.",
        ),
        (
            {"interval": (32.0, 128.0), "as_good": (16, 32, 1024)},
            f"{MATTERS}: train with B = 64 (95 % interval 32 to 128); larger batches than those "
            f"tried may be better. {REACHED} "
            "Shown to be within 5 points of the best size tried: 16, 32 and 1,024.",
        ),
        (
            {"interval": (16.0, 64.0), "as_good": (64,)},
            f"{MATTERS}: train with B = 64 (95 % interval 16 to 64); smaller batches than those "
            f"tried may be better. {REACHED} "
            "Shown to be within 5 points of the best size tried: 64.",
        ),
        (
            {"interval": (16.0, 128.0)},
            f"{MATTERS}: train with B = 64 (95 % interval 16 to 128); where it is "
            f"best is not known. {REACHED} {NEAR}",
        ),
        (
            {"adjusted_valley_p": 0.012},
            f"{MATTERS}: train with B = 64 (95 % interval 32 to 128). {REACHED} Accuracy falls "
            f"and then rises with B (p = 0.012). {NEAR}",
        ),
        (
            {"adjusted_p": 0.412},
            "whether B matters cannot be told (p = 0.41; two sizes may differ by up to 31 points; "
            "alone, such a curve would show a straight change of 12 points in 80 % of cases). No "
            "size is shown to be better: take B = 64, where the expected accuracy is lowest, or "
            "plan more "
            f"seeds (python -m analysis design). {REACHED}",
        ),
        (
            EQUIVALENT,
            f"the sizes tried differ by less than 5 points; use whichever B is fastest. {REACHED}",
        ),
        (
            {"best": 0.95, "best_interval": (0.942, 0.975)},
            "not protected by more than 5 points at any batch size tried. At best, networks still "
            "recognise, on average, 95 % [94, 98] of clean test images, instead of 99 %.",
        ),
        (
            {"best": 0.85, "best_interval": (0.6, 0.975)},
            "protection by more than 5 points is not shown at any batch size tried. At best, "
            "networks still recognise, on average, 85 % [60, 98] of clean test images, instead of "
            "99 %.",
        ),
    ],
)
def test_the_recommendation_says_which_batch_and_how_certain(
    changed: dict[str, Any], advice: str
) -> None:
    finding = replace(a_finding(a_fit(**changed)), seeds=None, oscillation=None)
    assert recommendation(finding) == f"digits at equal steps: {advice}"


def test_the_recommendation_warns_of_failures_and_of_noise_that_protects_as_well() -> None:
    failed = np.array([2, 0, 1, 0])
    said = recommendation(a_finding(failed=failed, noise=0.41, scope="all", arm="protected 80%"))
    assert said.startswith(
        "digits, protected 80% at equal steps, scope all: B matters (p = 0.003): train"
    )
    assert "Random noise alone protects as well (41 %)." in said
    assert said.endswith("3 of 15 runs failed (2 at B = 16, 1 at B = 64).")


def test_no_clean_accuracy_means_no_comparison() -> None:
    said = recommendation(a_finding(clean=math.nan, noise=math.nan))
    assert "recognise, on average, 38 % [33, 43] of clean test images. Shown to be" in said


def test_curves_are_told_apart_by_what_differs_only() -> None:
    one = a_curve()
    assert distinction(one, [one, replace(one, budget="epochs")]) == ""
    other = replace(one, lr_rule="sqrt", arm="random surrogate")
    assert distinction(other, [one, other]) == "random surrogate, sqrt learning rate"
    assert distinction(one, [one, other], arm=False) == "unscaled learning rate"
    assert label(one, [one, replace(other, dataset="blood8")]) == "digits"


def test_an_unscaled_learning_rate_is_named_beside_a_scaled_one() -> None:
    unscaled = a_finding()
    scaled = replace(unscaled, curve=a_curve(lr_rule="linear"))
    among = [unscaled.curve, scaled.curve]

    def name(finding: Finding, *others: Curve) -> str:
        return recommendation(finding, [finding.curve, *others]).partition(":")[0]

    assert name(unscaled, *among) == "digits at equal steps, unscaled learning rate"
    assert name(scaled, *among) == "digits at equal steps, linear learning rate"
    assert name(unscaled, replace(scaled.curve, dataset="blood8")) == "digits at equal steps"


def test_runs_that_left_the_images_unprotected_are_counted_by_size() -> None:
    accuracy = np.full((4, 3), 0.3)
    accuracy[0, 1] = accuracy[2, 0] = accuracy[2, 2] = 0.96
    accuracy[3, 0] = np.nan
    finding = a_finding(accuracy=accuracy)
    unprotected = count_unprotected([finding.curve], 0.05)
    assert unprotected is not None

    def said(**changed: Any) -> str:
        found = replace(unprotected, **changed)
        return recommendation(replace(finding, unprotected=found)).partition("3 of 11 ")[2]

    begins = "runs left the images unprotected, within 5 points of clean ones: 27 % [6, 61] "
    sizes = "1 at B = 16, 2 at B = 64"
    assert said(adjusted_trend_p=math.nan) == f"{begins}({sizes})."
    assert (
        said(adjusted_trend_p=0.01, rises=True)
        == f"{begins}({sizes}; more at a larger B, p = 0.01)."
    )
    assert said(adjusted_trend_p=0.2, rises=False) == (
        f"{begins}({sizes}; more at a smaller B is not shown, p = 0.2)."
    )


def test_runs_that_are_shown_to_be_unstable_are_said_to_be() -> None:
    large = a_spread("oscillation", adjusted_both_ends_p=1.0, adjusted_trend_p=0.012)
    finding = a_finding(a_fit())
    assert "nstable" not in recommendation(
        replace(finding, seeds=a_spread(adjusted_both_ends_p=1.0), oscillation=None)
    )
    said = recommendation(replace(finding, seeds=a_spread(), oscillation=large))
    assert "Std across seeds: unstable at both ends (p = 0.0" in said
    assert "Oscillation within a run: unstable at large batches (p = 0.012)." in said


def a_together(**changed: Any) -> Together:
    fields: dict[str, Any] = {
        "arm": "protected",
        "budget": "steps",
        "lr_rule": "none",
        "scope": "cluster",
        "datasets": ("blood8", "digits"),
        "seeds": a_spread(adjusted_both_ends_p=1.0, largest_ratio=2.4),
        "oscillation": a_spread("oscillation", adjusted_both_ends_p=0.3, change=0.8123),
        "spread": SpreadChanges((2.031, 0.164), 0.004, 0.008),
        "unprotected": Unprotected((), Rate(0, 80, 0.0, 0.05), False, math.nan, math.nan),
        "changes": (0.021, -0.304),
        "differ_p": 0.004,
        "adjusted_differ_p": 0.008,
    }
    return Together(**fields | changed)


def test_data_sets_together_are_said_to_be_unstable_or_even_and_to_differ_or_not() -> None:
    assert together_statement(a_together()) == (
        "2 data sets, equal steps: across seeds, runs spread 1.20 times [0.40, 3.60] as much at "
        "the largest B as at the smallest (even: on average over them, no two sizes can differ "
        "threefold). The factor by which the spread across seeds changes differs between data sets "
        "(p = 0.008; 2 on blood8, 0.16 on digits). Within a run, accuracy oscillates 0.81 times "
        "[0.40, 3.60] as much at the largest B as at the smallest (no clear pattern, p = 0.3). The "
        "change of accuracy from the smallest to the largest B differs between data sets "
        "(p = 0.008; in points, +2.1 on blood8, -30.4 on digits)."
    )
    other = a_together(
        lr_rule="sqrt",
        seeds=a_spread(adjusted_trend_p=0.01, adjusted_both_ends_p=1.0),
        oscillation=None,
        spread=SpreadChanges((2.0, math.nan), 0.2, 0.2),
        unprotected=Unprotected((), Rate(12, 80, 0.1, 0.3), True, 0.002, 0.004),
        adjusted_differ_p=0.2,
    )
    assert together_statement(other) == (
        "2 data sets, equal steps, sqrt learning rate: across seeds, runs spread 1.20 times "
        "[0.40, 3.60] as much at the largest B as at the smallest (unstable at large batches, "
        "p = 0.01). The factor by which the spread across seeds changes is not shown to differ "
        "between data sets (p = 0.2; 2 on blood8). 12 of 80 runs left the images unprotected; "
        "more at a larger B, p = 0.004. The change of accuracy from the smallest to the largest B "
        "is not shown to differ between data sets (p = 0.2; in points, +2.1 on blood8, -30.4 on "
        "digits)."
    )


def test_a_data_set_whose_change_is_unknown_is_named() -> None:
    said = together_statement(
        a_together(
            datasets=("blood8", "digits", "flowers5"),
            changes=(0.02, -0.3, math.nan),
            spread=SpreadChanges((2.0, 0.2, 1.0), 0.004, 0.008),
        )
    )
    assert said.endswith(
        "(p = 0.008; in points, +2.0 on blood8, -30.0 on digits). Too few seeds have enough sizes "
        "on flowers5."
    )
