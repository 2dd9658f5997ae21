import pandas as pd
import pytest

from analysis.findings.findings import Findings, analyse
from analysis.findings.sentences import recommendation
from tests.helpers.findings import BATCHES, a_table


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


def test_an_impossible_fit_is_a_problem_and_the_rest_is_kept() -> None:
    table = pd.concat([a_table(("digits",), seeds=1), a_table(("blood8",), budgets=("steps",))])
    found = analyse(table, draws=500)
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


def test_p_values_are_adjusted_for_all_curves_of_a_report(findings: Findings) -> None:
    """Holm: the smallest of m counts m times; none falls below its own."""
    raw, adjusted = zip(
        *((one.mean.flat_p, one.mean.adjusted_p) for one in findings.findings if one.mean),
        strict=True,
    )
    assert min(adjusted) == pytest.approx(min(1, len(raw) * min(raw)))
    assert all(after >= before for before, after in zip(raw, adjusted, strict=True))
    spreads = [finding.seeds for finding in findings.findings if finding.seeds]
    assert all(fit.adjusted_trend_p >= fit.trend_p for fit in spreads)
    first = findings.separations[0]
    raw_p = (first.difference_p, first.batch_p, first.steps_p)
    assert all(after >= before for before, after in zip(raw_p, first.adjusted, strict=True))


def test_data_sets_are_looked_at_together_by_budget(findings: Findings) -> None:
    assert [(one.budget, one.datasets) for one in findings.together] == [
        ("epochs", ("blood8", "digits")),
        ("steps", ("blood8", "digits")),
    ]
    for one in findings.together:
        for kind in ("seeds", "oscillation"):
            fit = one.instability(kind)
            assert fit is not None
            assert fit.trend_p <= fit.adjusted_trend_p <= 1
        assert one.differ_p <= one.adjusted_differ_p <= 1
    assert analyse(a_table(("digits",), budgets=("steps",)), draws=100).together == ()


def test_a_data_set_with_two_settings_does_not_count_twice() -> None:
    table = a_table(budgets=("steps",))
    other = a_table(("digits",), budgets=("steps",), settings="f" * 16)
    assert analyse(pd.concat([table, other]), draws=100).together == ()


def test_data_sets_of_too_few_runs_have_nothing_to_say_together() -> None:
    assert analyse(a_table(seeds=1, budgets=("steps",)), draws=100).together == ()
