"""The critical batch that gradient noise predicts, in plots, on the page and in TensorBoard."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from analysis.findings.critical_batch import statements
from analysis.findings.findings import Finding, Findings, analyse
from analysis.table.collect import Collection
from analysis.table.table import CRITICAL_COLUMNS
from analysis.views.plot import curves_figure
from analysis.views.report import write_report
from analysis.views.tensorboard import write_tensorboard
from tests.helpers.findings import a_finding, a_measured_table, predictions


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return a_measured_table()


@pytest.fixture(scope="module")
def findings(table: pd.DataFrame) -> Findings:
    return analyse(table, draws=100)


def marks(axes: Axes) -> dict[str, list[list[float]]]:
    """Where the ticks, arrows, ranges and upright lines of predictions are, in B."""
    own: dict[str, Callable[[Any], bool]] = {
        "tick": lambda line: line.get_marker() == "|" and np.size(line.get_xdata()) == 1,
        "arrow": lambda line: line.get_markersize() == 4.5,
        "range": lambda line: line.get_linewidth() == 0.9 and line.get_marker() == "",
        "upright": lambda line: line.get_linewidth() == 0.8,
    }
    return {
        name: [np.asarray(line.get_xdata()).tolist() for line in axes.lines if is_one(line)]
        for name, is_one in own.items()
    }


def words_of(*shown: Finding) -> list[str]:
    figure = curves_figure(shown)
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_accuracy_panel_marks_the_prediction_and_its_range_below_the_best_batch() -> None:
    panel, *rest = curves_figure([a_finding(critical=predictions(80, 90, 100))]).axes
    assert marks(panel) == {
        "tick": [[90]],
        "arrow": [],
        "range": [[80, 100]],
        "upright": [[90, 90]],
    }
    assert all(not any(marks(axes).values()) for axes in rest)
    heights = {line.get_marker(): np.asarray(line.get_ydata()).tolist() for line in panel.lines}
    uprights = [np.asarray(line.get_ydata()) for line in panel.lines if line.get_linewidth() == 0.8]
    assert [upright.tolist() for upright in uprights] == [[0, 1]]
    assert panel.get_ylim()[0] < heights["|"][0] < heights["D"][0] < 0
    assert "predicted critical batch" in words_of(a_finding(critical=predictions(80)))


def test_what_leaves_the_axis_ends_in_an_arrow() -> None:
    left, right = 16 * 2**-0.4, 128 * 2**0.4
    panel, *_ = curves_figure([a_finding(critical=predictions(5, 90, math.inf))]).axes
    found = marks(panel)
    assert found["tick"] == [[90]]
    assert found["arrow"] == [pytest.approx([left]), pytest.approx([right])]
    assert found["range"] == [pytest.approx([left, right])]
    for value, edge in ((5.0, left), (math.inf, right), (0.0, left)):
        panel, *_ = curves_figure([a_finding(critical=predictions(value))]).axes
        found = marks(panel)
        assert (found["tick"], found["upright"]) == ([], [])
        assert found["arrow"] == [pytest.approx([edge])]


def test_rules_have_heights_of_their_own() -> None:
    critical, rules = predictions(90), ("none", "sqrt", "linear")
    panel, *_ = curves_figure([a_finding(lr_rule=rule, critical=critical) for rule in rules]).axes
    signs = [line for line in panel.lines if str(line.get_marker()) in ("D", "|")]
    heights = [float(np.asarray(line.get_ydata())[0]) for line in signs]
    assert sorted(set(heights)) == [-35, -29, -23, -17, -11, -5]
    assert panel.get_ylim()[0] < -36


def test_without_a_measurement_there_is_no_mark_and_no_room_for_it() -> None:
    panel, *_ = curves_figure([a_finding()]).axes
    assert not any(marks(panel).values())
    assert panel.get_ylim()[0] == -8
    assert "predicted critical batch" not in words_of(a_finding())


def a_report(folder: Path, table: pd.DataFrame, findings: Findings) -> tuple[str, str]:
    page = write_report(Collection(table, ()), findings, folder).read_text()
    return page.replace("\N{NO-BREAK SPACE}", " "), (folder / "report.md").read_text()


@pytest.mark.usefixtures("no_drawings")
def test_the_page_has_the_sentence_the_column_and_what_it_means(
    table: pd.DataFrame, findings: Findings, tmp_path: Path
) -> None:
    sentence = statements(findings)["digits"]
    page, markdown = a_report(tmp_path, table, findings)
    assert f"<li>\n<strong>digits:</strong> {sentence.removeprefix('digits: ')}" in page.replace(
        "<li><strong>", "<li>\n<strong>"
    )
    assert f"* {sentence}\n" in markdown
    assert "| peak MiB | critical B (80 %) |" in markdown
    assert "| 480 (160 to 800) |" in markdown
    assert "| 3,840 (1,280 to unbounded) |" in markdown
    assert "<dt>Critical batch</dt>" in page
    for text in (page, markdown):
        assert "arXiv 1812.06162" in text


@pytest.mark.usefixtures("no_drawings")
def test_nothing_is_shown_where_nothing_was_measured(table: pd.DataFrame, tmp_path: Path) -> None:
    bare = table.assign(**dict.fromkeys(CRITICAL_COLUMNS, math.nan))
    mixed = pd.concat([bare, a_measured_table().replace({"dataset": {"digits": "blood8"}})])
    for text in a_report(tmp_path, bare, analyse(bare, draws=100)):
        assert "ritical" not in text
    _, markdown = a_report(tmp_path, mixed, analyse(mixed, draws=100))
    assert "blood8: gradient noise" in markdown
    assert "digits: gradient noise" not in markdown
    assert markdown.count("critical B (80 %)") == 2


def test_tensorboard_has_the_prediction(
    table: pd.DataFrame, findings: Findings, tmp_path: Path
) -> None:
    write_tensorboard(table, findings, tmp_path / "events")
    (steps,) = (tmp_path / "events" / "curves").glob("*steps*")
    events = EventAccumulator(str(steps)).Reload().Scalars("critical_batch/predicted")
    assert {event.step: event.value for event in events} == {b: 30.0 * b for b in (16, 32, 64, 128)}
