"""Estimates in words: accuracies stay between 0 and 100, differences need not."""

from analysis.fits.paired import Estimate
from analysis.views.leaderboard import accuracy_words, over_words, points_words


def test_an_interval_of_accuracies_is_clipped_and_one_of_differences_is_not() -> None:
    wide = Estimate(0.5, -0.2, 1.3, 2, "target seeds")
    assert accuracy_words(wide) == "50.0 [0.0, 100.0]"
    assert points_words(wide, 0) == "50.0 [-20, 130]"
    alone = Estimate(0.5, None, None, 1, "none")
    assert (accuracy_words(alone), points_words(alone), points_words(None)) == ("50.0", "50.0", "–")


def test_what_an_interval_is_over() -> None:
    words = {"runs": "2 runs", "target seeds": "2 seeds"}
    for basis, expected in words.items():
        assert over_words(Estimate(0.5, 0.4, 0.6, 2, basis)) == expected  # type: ignore[arg-type]
    assert over_words(Estimate(0.5, 0.4, 0.6, 1, "test images")) == "1 network"
