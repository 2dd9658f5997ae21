"""The critical batch that gradient noise predicts: in curves, files, plots, page and words."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from analysis.cli import main
from analysis.findings.critical_batch import span, statements
from analysis.findings.findings import Finding, Findings, analyse, sizes, write_findings
from analysis.table.collect import Collection
from analysis.table.table import (
    CRITICAL_COLUMNS,
    CriticalBatch,
    Floats,
    critical_batch_of,
    curves,
    read_table,
    write_table,
)
from analysis.views.plot import curves_figure
from analysis.views.report import write_report
from analysis.views.tensorboard import write_tensorboard
from tests.helpers.command_line import cli_of
from tests.helpers.findings import a_curve, a_finding, a_fit, a_table

BATCHES = (16, 32, 64, 128)


def predicted(*values: float) -> Floats:
    """float64 [4, 3], the runs of `a_curve`: the values, again and again."""
    return np.resize(np.array(values, np.float64), (4, 3))


def a_measured_table(**changed: Any) -> pd.DataFrame:
    """Five seeds whose predictions are 10 B, 20 B ... 50 B, the last one unbounded at B = 128."""
    table = a_table(("digits",), batches=BATCHES, failures=(("digits", 16, 3),), **changed)
    value = 10.0 * table["effective_batch"] * (table["seed"] + 1)
    value[(table["effective_batch"] == 128) & (table["seed"] == 4)] = math.inf
    value[table["failed"]] = math.nan
    return table.assign(**dict(zip(CRITICAL_COLUMNS, (value, value / 2, 2 * value), strict=True)))


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return a_measured_table()


@pytest.fixture(scope="module")
def findings(table: pd.DataFrame) -> Findings:
    return analyse(table, draws=100)


def test_the_median_and_the_middle_80_percent_of_runs() -> None:
    assert critical_batch_of(np.full((2, 3), np.nan)) is None
    assert critical_batch_of(np.array([np.nan, 7.0])) == CriticalBatch(7, 7, 7, 1, 0)
    assert critical_batch_of(np.arange(11.0)) == CriticalBatch(5, 1, 9, 11, 0)
    assert critical_batch_of(np.arange(10.0)) == CriticalBatch(4.5, 0, 9, 10, 0)
    assert critical_batch_of(np.array([5.0, np.inf, 3.0, np.inf])) == CriticalBatch(
        math.inf, 3, math.inf, 4, 2
    )
    assert critical_batch_of(np.full(3, np.inf)) == CriticalBatch(
        math.inf, math.inf, math.inf, 3, 3
    )


def test_a_curve_has_the_prediction_of_every_run_once(table: pd.DataFrame) -> None:
    epochs, steps = curves(pd.concat([table, table.assign(target_seed=table["target_seed"] + 10)]))
    expected = 10.0 * np.array(BATCHES)[:, None] * np.arange(1, 6)
    expected[3, 4] = np.inf
    np.testing.assert_array_equal(steps.critical, expected)
    expected[0, 3] = np.nan
    np.testing.assert_array_equal(epochs.critical, expected)
    assert steps.predicted == CriticalBatch(1280, 320, 5120, 20, 1)
    assert epochs.predicted is not None
    assert epochs.predicted.runs == 19


def test_unbounded_and_unmeasured_survive_csv_and_parquet(
    table: pd.DataFrame, tmp_path: Path
) -> None:
    write_table(table, tmp_path)
    for name in ("table.csv", "table.parquet"):
        again = read_table(tmp_path / name)
        pd.testing.assert_frame_equal(again[list(CRITICAL_COLUMNS)], table[list(CRITICAL_COLUMNS)])
        assert np.isinf(again["critical_batch"]).sum() == 2
        assert again["critical_batch"].isna().sum() == 1


@pytest.mark.parametrize("name", ["table.csv", "table.parquet"])
def test_an_older_table_has_no_prediction(name: str, table: pd.DataFrame, tmp_path: Path) -> None:
    write_table(table.drop(columns=list(CRITICAL_COLUMNS)), tmp_path)
    again = read_table(tmp_path / name)
    assert again[list(CRITICAL_COLUMNS)].isna().all(axis=None)
    for curve in curves(again):
        assert curve.predicted is None


def test_sizes_and_files_carry_the_prediction(
    table: pd.DataFrame, findings: Findings, tmp_path: Path
) -> None:
    _, steps = findings.findings
    first, *_, last = sizes(steps, table)
    assert first.critical == CriticalBatch(480, 160, 800, 5, 0)
    assert last.critical == CriticalBatch(3840, 1280, math.inf, 5, 1)
    write_findings(Findings((*findings.findings, a_finding())), tmp_path)
    content = json.loads((tmp_path / "findings.json").read_text())
    _, record, bare = content["findings"]
    assert record["critical"] == {
        "value": 1280.0,
        "low": 320.0,
        "high": 5120.0,
        "runs": 20,
        "unbounded": 1,
    }
    assert record["curve"]["critical"][0] == [160.0, 320.0, 480.0, 640.0, 800.0]
    assert record["curve"]["critical"][3][4] is None
    assert bare["critical"] is None
    fits = pd.read_csv(tmp_path / "fits.csv")
    assert fits.query("budget == 'steps'")[list(CRITICAL_COLUMNS)].iloc[0].tolist() == [
        1280,
        320,
        5120,
    ]
    assert fits[list(CRITICAL_COLUMNS)].iloc[-1].isna().all()
    write_findings(Findings((a_finding(),)), tmp_path)
    assert not set(CRITICAL_COLUMNS) & set(pd.read_csv(tmp_path / "fits.csv"))


OF_12 = "gradient noise predicts a critical batch of 90 (middle 80 % of 12 runs: 80 to 100)"


@pytest.mark.parametrize(
    ("values", "changed", "says"),
    [
        (
            (80, 90, 100),
            {},
            f"{OF_12} at equal steps, and the best B measured, 64 (95 % interval 32 to 128), lies "
            "below it, though its interval reaches there.",
        ),
        ((80, 90, 100), {"interval": (32.2, 79.0)}, "64 (95 % interval 32 to 79), lies below it."),
        ((60, 90, 100), {}, "64 (95 % interval 32 to 128), lies inside that range."),
        ((20, 25, 30), {}, "lies above it."),
        ((20, 25, 33), {}, "lies above it, though its interval reaches there."),
        (
            (200, 210, 220),
            {"verdict": "at least"},
            "at least 64 (95 % interval 32 to 128), lies below it as far as was tried.",
        ),
        (
            (100, 110, 120),
            {"verdict": "at least"},
            "at least 64 (95 % interval 32 to 128), reaches into that range.",
        ),
        (
            (5, 6, 7),
            {"verdict": "at most"},
            "at most 64 (95 % interval 32 to 128), lies above it as",
        ),
        ((20, 21, 22), {"verdict": "at most"}, "reaches into that range."),
        ((20, 21, 22), {"verdict": "at least"}, "lies above it."),
        (
            (80, 90, 100),
            {"verdict": "flat", "optimum": None, "interval": None},
            f"{OF_12} at equal steps, but no effect of B on protection is shown.",
        ),
        (
            (80, math.inf, math.inf),
            {},
            "of at least 80 (in 8 of 12 runs the gradient is lost in its noise) at equal steps, "
            "and the best B measured, 64 (95 % interval 32 to 128), lies below it",
        ),
        (
            (50, math.inf, math.inf),
            {},
            "64 (95 % interval 32 to 128), lies inside that range.",
        ),
        (
            (math.inf,),
            {},
            "beyond what can be told (in 12 of 12 runs the gradient is lost in its noise) at "
            "equal steps.",
        ),
    ],
)
def test_a_sentence_says_the_prediction_and_where_the_best_batch_lies(
    values: tuple[float, ...], changed: dict[str, Any], says: str
) -> None:
    finding = a_finding(a_fit(**changed), critical=predicted(*values))
    said = statements(Findings((finding,)))["digits"]
    assert said.startswith("digits: gradient noise predicts a critical batch")
    assert says in said


def test_there_is_one_sentence_for_each_data_set_of_its_protected_curves() -> None:
    critical = predicted(80, 90, 100)
    budgets = [a_finding(budget=budget, critical=critical) for budget in ("epochs", "steps")]
    others = [
        a_finding(dataset="blood8", critical=predicted(math.nan)),
        a_finding(arm="random surrogate", critical=critical),
        Finding(a_curve(dataset="pets", critical=critical), None, None, None, "too few"),
    ]
    said = statements(Findings((*budgets, *others)))
    assert list(said) == ["digits", "pets"]
    assert said["digits"].count(" of 90 (middle 80 %") == 2
    assert "; of 90 (middle 80 % of 12 runs: 80 to 100) at equal steps, and" in said["digits"]
    assert said["pets"].endswith("at equal steps, but no best B could be fitted.")


def test_a_span_is_short() -> None:
    assert span(CriticalBatch(1234.4, 870, math.inf, 5, 1)) == "1,234 (870 to unbounded)"
    assert span(CriticalBatch(20, 20, 20, 1, 0)) == "20"
    assert span(CriticalBatch(math.inf, math.inf, math.inf, 4, 4)) == "unbounded"


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
    panel, *rest = curves_figure([a_finding(critical=predicted(80, 90, 100))]).axes
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
    assert "predicted critical batch" in words_of(a_finding(critical=predicted(80)))


def test_what_leaves_the_axis_ends_in_an_arrow() -> None:
    left, right = 16 * 2**-0.4, 128 * 2**0.4
    panel, *_ = curves_figure([a_finding(critical=predicted(5, 90, math.inf))]).axes
    found = marks(panel)
    assert found["tick"] == [[90]]
    assert found["arrow"] == [pytest.approx([left]), pytest.approx([right])]
    assert found["range"] == [pytest.approx([left, right])]
    for value, edge in ((5.0, left), (math.inf, right), (0.0, left)):
        panel, *_ = curves_figure([a_finding(critical=predicted(value))]).axes
        found = marks(panel)
        assert (found["tick"], found["upright"]) == ([], [])
        assert found["arrow"] == [pytest.approx([edge])]


def test_manners_of_batching_have_heights_of_their_own() -> None:
    rules = [a_finding(lr_rule=rule, critical=predicted(90)) for rule in ("none", "sqrt", "linear")]
    panel, *_ = curves_figure(rules).axes
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


def test_nothing_is_told_where_nothing_was_measured(table: pd.DataFrame, tmp_path: Path) -> None:
    bare = table.assign(**dict.fromkeys(CRITICAL_COLUMNS, math.nan))
    mixed = pd.concat([bare, a_measured_table().replace({"dataset": {"digits": "blood8"}})])
    for text in a_report(tmp_path, bare, analyse(bare, draws=100)):
        assert "ritical" not in text
    _, markdown = a_report(tmp_path, mixed, analyse(mixed, draws=100))
    assert "blood8: gradient noise" in markdown
    assert "digits: gradient noise" not in markdown
    assert markdown.count("critical B (80 %)") == 2


def test_tensorboard_and_the_command_tell_of_it(
    table: pd.DataFrame,
    findings: Findings,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_tensorboard(table, findings, tmp_path / "board")
    (steps,) = (tmp_path / "board" / "curves").glob("*steps*")
    found = EventAccumulator(str(steps)).Reload().Scalars("critical_batch/predicted")
    assert {event.step: event.value for event in found} == {b: 30.0 * b for b in BATCHES}
    write_table(table, tmp_path)
    code, out, _ = cli_of(main, capsys)("fit", tmp_path, "--draws", "100")
    assert code == 0
    assert statements(findings)["digits"] in out.splitlines()
