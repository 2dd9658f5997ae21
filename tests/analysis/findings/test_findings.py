import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.findings.findings import (
    Findings,
    analyse,
    label,
    manner,
    recommendation,
    sizes,
    write_findings,
)
from tests.helpers.findings import BATCHES, a_curve, a_finding, a_fit, a_table


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return a_table()


@pytest.fixture(scope="module")
def findings(table: pd.DataFrame) -> Findings:
    return analyse(table, draws=200)


def test_every_curve_is_fitted_and_both_budgets_are_compared(findings: Findings) -> None:
    assert [finding.curve.title for finding in findings.findings] == [
        f"{dataset}, protected: equal {budget}"
        for dataset in ("blood8", "digits")
        for budget in ("epochs", "steps")
    ]
    for finding in findings.findings:
        assert finding.mean is not None
        assert finding.problem == ""
        for kind in ("seeds", "oscillation"):
            fit = finding.instability(kind)
            assert fit is not None
            assert fit.kind == kind
    assert [one.dataset for one in findings.separations] == [
        "blood8, protected",
        "digits, protected",
    ]
    assert findings.problems == ()


def test_the_simulated_optimum_is_found(findings: Findings) -> None:
    mean = findings.findings[2].mean
    assert mean is not None
    assert mean.optimum == pytest.approx(2**4.3, rel=0.5)


def test_what_cannot_be_fitted_is_said_and_the_rest_is_kept() -> None:
    table = pd.concat([a_table(("digits",), seeds=1), a_table(("blood8",), budgets=("steps",))])
    found = analyse(table, draws=100)
    blood, *digits = found.findings
    assert blood.mean is not None
    for finding in digits:
        assert finding.mean is None
        assert "fewer than 2 runs" in finding.problem
        assert recommendation(finding).endswith(f"no recommendation ({finding.problem}).")
    assert found.separations == ()
    assert len(found.problems) == 1


def test_a_curve_whose_every_run_failed_has_a_problem() -> None:
    everything = tuple(("digits", batch, seed) for batch in BATCHES for seed in range(5))
    (finding,) = analyse(a_table(("digits",), budgets=("epochs",), failures=everything)).findings
    assert finding.mean is None
    assert "40 of 40 runs failed" in recommendation(finding)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {},
            "digits at equal steps: train with B = 64 (95 % interval 32 to 128); a network then "
            "reaches 38 % [33, 43] of clean test images instead of 99 %. "
            "Anything from 32 to 128 is within 2 points.",
        ),
        (
            {"plateau": (64, 64), "margin": 0.005},
            "digits at equal steps: train with B = 64 (95 % interval 32 to 128); a network then "
            "reaches 38 % [33, 43] of clean test images instead of 99 %. "
            "Of the sizes tried, only 64 is within 0.5 points of that.",
        ),
        (
            {"verdict": "at least", "optimum": 128.0, "interval": (64.0, 128.0)},
            "digits at equal steps: train with B of at least 128 (95 % interval 64 to 128): "
            "protection still improves at the largest batch tried; a network then reaches 38 % "
            "[33, 43] of clean test images instead of 99 %. "
            "Anything from 32 to 128 is within 2 points.",
        ),
        (
            {"verdict": "at least", "optimum": 64.0},
            "digits at equal steps: train with B of at least 64 (95 % interval 32 to 128): it is "
            "as good from there to the largest batch tried; a network then reaches 38 % [33, 43] "
            "of clean test images instead of 99 %. Anything from 32 to 128 is within 2 points.",
        ),
        (
            {"verdict": "at most", "optimum": 16.0, "interval": (16.0, 31.0)},
            "digits at equal steps: train with B of at most 16 (95 % interval 16 to 31): "
            "protection still improves at the smallest batch tried; a network then reaches 38 % "
            "[33, 43] of clean test images instead of 99 %. "
            "Anything from 32 to 128 is within 2 points.",
        ),
        (
            {"verdict": "flat", "optimum": None, "interval": None, "flat_p": 0.412},
            "digits at equal steps: no effect of B is shown (p = 0.41): take whatever is fastest; "
            "a network reaches 38 % [33, 43] of clean test images instead of 99 %.",
        ),
        (
            {"best": 0.95, "best_interval": (0.93, 0.975)},
            "digits at equal steps: not protected at any batch size tried: at best a network still "
            "reaches 95 % [93, 98] of clean test images instead of 99 %.",
        ),
    ],
)
def test_the_recommendation_says_which_batch_and_how_sure(
    changed: dict[str, Any], said: str
) -> None:
    assert recommendation(a_finding(a_fit(**changed))) == said


def test_the_recommendation_warns_of_failures_and_of_noise_that_does_as_much() -> None:
    failed = np.array([2, 0, 1, 0])
    said = recommendation(a_finding(failed=failed, noise=0.41, scope="all", arm="protected 80%"))
    assert said.startswith("digits, protected 80% at equal steps, scope all: train with B = 64")
    assert "Random noise alone does as much (41 %)." in said
    assert said.endswith("3 of 15 runs failed (2 at B = 16, 1 at B = 64).")


def test_no_clean_accuracy_means_no_comparison() -> None:
    said = recommendation(a_finding(clean=math.nan, noise=math.nan))
    assert "reaches 38 % [33, 43] of clean test images. Anything" in said


def test_sizes_hold_means_t_intervals_failures_speed_and_memory(
    table: pd.DataFrame, findings: Findings
) -> None:
    digits = findings.findings[2]
    first, *_, last = sizes(digits, table)
    values = digits.curve.accuracy[0][np.isfinite(digits.curve.accuracy[0])]
    half = 3.182446 * values.std(ddof=1) / 2
    assert (first.batch, first.steps, first.count, first.failed) == (2, 1400, 4, 1)
    assert (first.mean, first.low) == pytest.approx((values.mean(), values.mean() - half))
    assert first.std == pytest.approx(values.std(ddof=1))
    assert last.images_per_second == pytest.approx(300 * 256**0.4)
    assert last.memory == pytest.approx(210 + 1.7 * 256 + 4)


def test_a_single_run_has_no_interval_and_a_missing_table_no_speed() -> None:
    (size, *_) = sizes(a_finding(seeds=1))
    assert size.mean == pytest.approx(0.3)
    assert all(math.isnan(value) for value in (size.low, size.high, size.memory))


def test_curves_are_told_apart_by_what_differs_only() -> None:
    one = a_curve()
    assert manner(one, [one, replace(one, budget="epochs")]) == ""
    other = replace(one, lr_rule="sqrt", arm="random surrogate")
    assert manner(other, [one, other]) == "random surrogate, sqrt learning rate"
    assert manner(one, [one, other], arm=False) == "unscaled learning rate"
    assert label(one, [one, replace(other, dataset="blood8")]) == "digits"


def test_findings_are_written_as_strict_json_and_a_row_for_each_family(
    tmp_path: Path, findings: Findings
) -> None:
    mixed = Findings((*findings.findings, a_finding()), findings.separations)
    write_findings(mixed, tmp_path)
    text = (tmp_path / "findings.json").read_text()
    content = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    *_, last = content["findings"]
    assert last["title"] == "digits, protected: equal steps"
    assert last["recommendation"] == recommendation(a_finding())
    assert last["seeds"]["calmest_interval"] == [0.0, None]
    assert last["mean"]["families"][0]["errors"] == {"knot": None}
    assert content["findings"][2]["curve"]["accuracy"][0][3] is None
    assert content["separations"][0]["statement"] == findings.separations[0].statement
    fits = pd.read_csv(tmp_path / "fits.csv")
    assert len(fits) == 4 * 5 + 1
    assert fits["family"].iloc[-1] == "hinge"
    assert fits["knot"].iloc[-1] == 6
    assert fits.groupby(["dataset", "budget"], sort=False)["weight"].sum().iloc[0] == pytest.approx(
        1
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["findings.json", "fits.csv"]


def test_the_analysis_does_without_torch() -> None:
    modules = "analysis.findings.findings, analysis.views.report, analysis.views.tensorboard"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
