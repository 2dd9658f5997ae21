from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from analysis.findings.findings import Finding, Findings, analyse
from analysis.fits.failures import count_unprotected
from analysis.views.plot import (
    curves_figure,
    file_names,
    overview_figure,
    plot,
    steps_figure,
)
from tests.helpers.findings import (
    CANNOT_TELL,
    EQUIVALENT,
    a_curve,
    a_finding,
    a_fit,
    a_spread,
    a_table,
)


def words(part: Figure | Axes) -> Iterator[str]:
    for text in part.findobj(Text):
        if text.get_visible():
            yield text.get_text()


def sizes_shown(axes: Axes) -> list[str]:
    return [tick.get_text() for tick in axes.get_xticklabels()]


@pytest.fixture(scope="module")
def both_budgets() -> Findings:
    failed = np.array([0, 1, 0, 0])
    return Findings((a_finding(budget="epochs", failed=failed), a_finding()))


@pytest.fixture(scope="module")
def plots(both_budgets: Findings, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return plot(both_budgets, tmp_path_factory.mktemp("plots"))


def test_every_data_set_all_and_the_steps_are_written_as_png_and_svg(plots: list[Path]) -> None:
    assert [path.name for path in plots] == [
        f"{name}.{kind}" for name in ("digits", "all", "steps-digits") for kind in ("png", "svg")
    ]
    assert sorted(plots) == sorted(plots[0].parent.iterdir())
    with Image.open(plots[0]) as picture:
        assert picture.width > 1000
        assert picture.info["dpi"][0] == pytest.approx(150, abs=0.1)


def test_the_same_findings_give_the_same_bytes_without_a_date(
    both_budgets: Findings, plots: list[Path], tmp_path: Path
) -> None:
    for one, other in zip(plots, plot(both_budgets, tmp_path), strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert b"<dc:date>" not in plots[1].read_bytes()


def test_the_axis_has_the_real_sizes_and_marks_the_full_batch() -> None:
    panel, *_, lowest = curves_figure([a_finding(full=100)]).axes
    assert sizes_shown(lowest) == ["16", "32", "64", "128"]
    assert "full batch" in words(panel)
    assert [patch.get_x() for patch in panel.patches] == [100]
    assert "full batch" not in words(curves_figure([a_finding(full=129)]))


def test_labels_that_would_touch_are_left_out() -> None:
    batches = np.array([2, 96, 100, 4096])
    *_, lowest = curves_figure([a_finding(batches=batches)]).axes
    assert sizes_shown(lowest) == ["2", "96", "", "4,096"]


def test_failed_runs_are_counted_at_the_top() -> None:
    finding = a_finding(failed=np.array([3, 0, 0, 2]))
    panel, *_ = curves_figure([finding]).axes
    crosses = [line for line in panel.lines if line.get_marker() == "x"]
    assert [line.get_xdata()[0] for line in crosses] == [16, 128]
    assert all(line.get_ydata()[0] > 100 for line in crosses)
    assert {"3", "2"} <= set(words(panel))


def test_the_best_batch_is_marked_with_its_interval() -> None:
    panel, *_ = curves_figure([a_finding()]).axes
    (bar,) = (line for line in panel.lines if line.get_marker() == "|")
    assert list(bar.get_xdata()) == [32.2, 127.6]
    (best,) = (line for line in panel.lines if line.get_marker() == "D")
    assert list(best.get_xdata()) == [63.7]


def test_what_was_not_fitted_or_is_flat_says_so() -> None:
    for changed, said in (
        (CANNOT_TELL, "whether B matters cannot be told"),
        (EQUIVALENT, "sizes are equivalent"),
    ):
        assert said in words(curves_figure([a_finding(a_fit(**changed))]))
    bare = Finding(a_curve(), None, None, None, problem="too few")
    assert "not fitted" in words(curves_figure([bare]))
    assert "not fitted" in words(overview_figure([bare], ["steps"]))


def test_manners_of_batching_have_colours_markers_and_lines_of_their_own() -> None:
    rules = ("none", "sqrt", "linear")
    findings = [a_finding(lr_rule=rule) for rule in rules]
    figure = curves_figure(findings)
    panel = figure.axes[0]
    means = [line for line in panel.lines if line.get_markersize() == 6.5]
    assert len({line.get_color() for line in means}) == 3
    assert len({line.get_marker() for line in means}) == 3
    assert len({line.get_xdata()[0] for line in means}) == 3
    assert {f"{rule} learning rate" for rule in ("unscaled", "sqrt", "linear")} <= set(
        words(figure)
    )
    alone = curves_figure(findings[2:], findings).axes[0]
    (mean,) = (line for line in alone.lines if line.get_markersize() == 6.5)
    assert mean.get_color() in {line.get_color() for line in means}


def test_arms_have_rows_and_budgets_columns_and_what_was_not_run_is_blank() -> None:
    findings = [
        a_finding(),
        a_finding(budget="epochs"),
        a_finding(arm="random surrogate", budget="epochs"),
    ]
    axes = curves_figure(findings).axes
    titles = [panel.get_title(loc="left") for panel in axes if panel.get_visible()]
    assert titles[:2] == ["protected, equal epochs", "protected, equal steps"]
    assert titles[8] == "random surrogate, equal epochs"
    assert len(titles) == 12
    assert len(axes) == 16


def test_the_share_of_runs_that_left_images_unprotected_has_its_exact_interval() -> None:
    finding = a_finding()
    middle = float(np.nanmedian(finding.curve.accuracy))
    unprotected = count_unprotected([replace(finding.curve, clean=middle)], 0.0)
    assert unprotected is not None
    assert 0 < unprotected.total.count < unprotected.total.runs
    finding = replace(finding, unprotected=unprotected)
    (panel,) = (
        panel
        for panel in curves_figure([finding]).axes
        if panel.get_title(loc="left").startswith("runs that left images unprotected")
    )
    ((points, _, (bars,)),) = panel.containers
    sizes = unprotected.sizes
    assert points.get_ydata().tolist() == [100 * rate.count / rate.runs for rate in sizes]
    ends = [sorted(segment[:, 1].tolist()) for segment in bars.get_segments()]
    assert ends == [pytest.approx([100 * rate.low, 100 * rate.high]) for rate in sizes]


def test_instability_titles_say_the_verdict() -> None:
    finding = replace(
        a_finding(),
        oscillation=a_spread("oscillation", adjusted_both_ends_p=0.2, adjusted_trend_p=0.01),
    )
    said = set(words(curves_figure([finding])))
    assert "std across seeds: unstable at both ends" in said
    assert "oscillation within a run: unstable at large batches" in said


def test_sizes_of_as_many_steps_share_a_label() -> None:
    epochs = a_finding(budget="epochs", steps=np.array([120, 60, 20, 20]))
    left, right = steps_figure([(epochs, a_finding())]).axes
    assert {"16", "32", "64, 128"} <= {text.get_text() for text in left.texts}
    assert sizes_shown(left) == ["20", "60", "120"]
    assert sizes_shown(right) == ["16", "32", "64", "128"]


def test_all_data_sets_share_the_panels_of_a_budget() -> None:
    findings = [a_finding(dataset=name) for name in ("digits", "blood8", "a" * 12 + " " + "b" * 12)]
    figure = overview_figure(findings, ["steps"])
    assert len(figure.axes) == 4
    assert {"digits", "blood8"} <= set(words(figure))
    accuracy, seeds, oscillation, best = figure.axes
    assert all(len(panel.collections) >= 3 for panel in (accuracy, seeds, oscillation))
    assert len([line for line in best.lines if line.get_marker() == "|"]) == 3


def test_a_curve_whose_every_run_failed_is_drawn() -> None:
    everything = tuple(("digits", batch, seed) for batch in (2, 4, 8) for seed in (0, 1))
    table = a_table(("digits",), batches=(2, 4, 8), seeds=2, failures=everything)
    for column in ("optimizer_steps", "full_batch", "chance"):
        table[column] = table[column].where(~table["failed"], 0)
    epochs, steps = analyse(table, draws=100).findings
    for figure in (curves_figure([epochs, steps]), steps_figure([(epochs, steps)])):
        figure.draw_without_rendering()


def test_data_sets_of_like_names_have_files_of_their_own() -> None:
    names = ("all", "my set", "my-set", "x", "steps-x")
    files = file_names(Findings(tuple(a_finding(dataset=name) for name in names)))
    written = {"all", *files.values(), *(f"steps-{name}" for name in files.values())}
    assert len(written) == 1 + 2 * len(names)


def test_the_largest_batch_is_always_labelled_and_no_label_touches_another() -> None:
    found = analyse(a_table(("digits",), batches=tuple(2**k for k in range(1, 11))), draws=100)
    figure = overview_figure(found.findings, ["epochs", "steps"])
    figure.canvas.draw()
    shown = [label for label in figure.axes[-1].get_xticklabels() if label.get_text()]
    assert shown[-1].get_text() == "1,024"
    boxes = [label.get_window_extent() for label in shown]
    assert len(boxes) > 5
    assert all(left.x1 <= right.x0 for left, right in pairwise(boxes))
