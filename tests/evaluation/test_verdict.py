"""Verdicts: what a difference of accuracies shows, and what it does not."""

import pytest
from scipy.stats import binomtest

from bigbatch_ue.evaluation.report.verdict import LEAST_IMAGES, Comparison, Difference, Verdict
from bigbatch_ue.reporting.statistics import summarise


def judge(clean: float, protected: list[float], images: int = 200) -> str:
    difference = Difference(summarise([clean - one for one in protected]), images)
    return str(Verdict(clean, sum(protected) / len(protected), 0.2, difference))


def test_fewer_images_than_a_test_can_show_are_never_claimed() -> None:
    """Equal seeds have an interval of no width, and still no more than a few images speak."""
    assert binomtest(LEAST_IMAGES, LEAST_IMAGES).pvalue < 0.05
    assert binomtest(LEAST_IMAGES - 1, LEAST_IMAGES - 1).pvalue > 0.05
    one_image = Comparison("block pattern", Difference(summarise([1 / 30] * 3), 30))
    assert str(one_image) == (
        "block pattern: no difference is shown (+3.3 points, 1 of 30 test images)"
    )
    six = Comparison("block pattern", Difference(summarise([6 / 30] * 3), 30))
    assert str(six) == (
        "block pattern: the learned perturbations protect better (+20.0 points [20.0 to 20.0])"
    )


def test_a_single_seed_may_be_chance() -> None:
    line = str(Comparison("random noise", Difference(summarise([-0.4]), 100)))
    assert line == "random noise: -40.0 points, one seed, so the difference may be chance"


@pytest.mark.parametrize(
    ("protected", "verdict"),
    [
        ([0.25, 0.27, 0.26], "protection works: 10 % of what clean images teach"),
        ([0.1, 0.12, 0.14], "protection works: 0 % of"),
        ([0.48, 0.5, 0.52], "partial protection: 50 % of"),
        ([0.7, 0.72, 0.71], "little protection: 85 % of"),
        ([0.79, 0.785, 0.79], "no protection is shown (+1.2 points, 2 of 200 test images)"),
        ([0.4, 0.9, 0.7], "no protection is shown (+13.3 points ["),
        ([0.3], "protection works: 17 % of"),
        ([0.79], "no protection is shown"),
    ],
)
def test_verdict_says_plainly_whether_images_are_protected(
    protected: list[float], verdict: str
) -> None:
    line = judge(0.8, protected)
    assert line.startswith(verdict)
    assert line.endswith('see "If it does not protect" in docs/protection.md') != (
        verdict.startswith("protection works")
    )


def test_a_network_that_learns_nothing_from_clean_images_shows_nothing() -> None:
    assert judge(0.22, [0.2, 0.2, 0.21]).startswith("nothing is shown: clean images teach this")
