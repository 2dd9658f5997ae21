"""The figure of an evaluation in Python: every arm, every seed, and chance."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes

from bigbatch_ue.evaluation.report.evaluation import Evaluation
from bigbatch_ue.evaluation.report.terminal import verdicts
from bigbatch_ue.runtime.errors import UserError
from tests.helpers.records import an_arm, clean, own


def points(axes: Axes) -> list[list[float]]:
    return [
        np.asarray(line.get_xdata()).tolist() for line in axes.lines if line.get_marker() == "o"
    ]


def test_every_seed_is_a_point_beside_its_mean_and_chance(tmp_path: Path) -> None:
    finals = {"clean": [0.9, 0.94, 0.92], "protected": [0.2, 0.35, 0.26]}
    arms = [clean(final, seed=seed) for seed, final in enumerate(finals["clean"])]
    arms += [own(final, seed=seed) for seed, final in enumerate(finals["protected"])]
    evaluation = Evaluation(arms)
    figure = evaluation.plot()
    (axes,) = figure.axes
    assert axes.get_title(loc="left") == "digits, resnet18"
    assert [label.get_text() for label in axes.get_yticklabels()] == list(finals)
    for drawn, bar, expected in zip(points(axes), axes.patches, finals.values(), strict=True):
        assert drawn == pytest.approx([100 * final for final in expected])
        assert bar.get_width() == pytest.approx(100 * np.mean(expected))  # type: ignore[attr-defined]
    assert [10.0, 10.0] in [list(line.get_xdata()) for line in axes.lines]
    figure.savefig(tmp_path / "figure.png")
    assert evaluation.sentences() == verdicts(arms)
    assert evaluation.table().row_count == 2


def test_each_target_has_a_panel_and_countermeasures_say_what_they_counter() -> None:
    jpeg = own(0.5, countermeasure="jpeg10")
    arms = [clean(0.9), own(0.2), jpeg, clean(0.8, target="vgg11"), an_arm(0.3, target="vgg11")]
    upper, lower = Evaluation(arms).plot().axes
    names = [label.get_text() for label in upper.get_yticklabels()]
    assert names == ["clean", "protected", "protected, under countermeasures: JPEG, quality 10"]
    assert lower.get_title(loc="left") == "digits, vgg11"
    assert len(points(lower)) == 2


def test_without_arms_there_is_nothing_to_draw() -> None:
    with pytest.raises(UserError, match="plot: no arm is finished"):
        Evaluation().plot()
