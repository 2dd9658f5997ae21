"""The leaderboard as a table of values, as a page, and for the terminal."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from analysis.findings.leaderboard import Leaderboard, Score, Task
from analysis.fits.paired import Estimate
from bigbatch_ue.files.atomic import atomic_file
from bigbatch_ue.reporting.page import page_environment, write_page
from bigbatch_ue.reporting.words import DASH, counted, interval, percent

TABLE, PAGE = "leaderboard.csv", "leaderboard.html"
_VALUES = {"accuracy": "final_accuracy", "balanced_accuracy": "balanced_accuracy", "auc": "auc"}
"""Fields of `Arm` by the name of their column."""


def write_leaderboard(board: Leaderboard, folder: Path, command: str) -> Path:
    """Write `leaderboard.csv` and `leaderboard.html`; return the path of the page.

    Args:
        board: result of `compare`.
        folder: output folder.
        command: the user's command line, for the page.
    """
    rows = list(table_rows(board))
    with (
        atomic_file(folder / TABLE) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    environment = page_environment(
        "analysis.views", accuracy=accuracy_words, points=points_words, over=over_words
    )
    page = folder / PAGE
    write_page(page, environment, {"board": board, "command": command})
    return page


def table_rows(board: Leaderboard) -> Iterator[dict[str, Any]]:
    """Yield a row for each method of each task, with the columns of docs/files.md."""
    for task in board.tasks:
        for place, score in enumerate(task.rows, start=0 if task.clean else 1):
            yield {
                "dataset": task.dataset,
                "target": task.target,
                "countermeasure": task.countermeasure,
                "method": score.method,
                "place": place,
                "standing": score.standing,
                **_kind(score),
                "measure": score.measure,
                "interval": score.result.basis,
                **_ends("", score.result, "value"),
                **_ends("drop", score.drop),
                **_ends("behind", score.behind),
                "behind_p": _rounded(score.p),
                **_all_measures(score),
                "linf": "" if score.linf is None else score.linf,
                "psnr": _rounded(score.psnr),
                "ssim": _rounded(score.ssim),
                "chance": _rounded(task.group.chance),
                "largest_class": _rounded(task.group.largest_class),
                "test_images": task.group.test_images,
                "images": task.images,
            }


def leaderboard_tables(board: Leaderboard) -> Iterator[Table]:
    """Yield tables that fit in 80 columns: the mean over tasks, and one for each plain task."""
    if len(board.shared) > 1:
        yield _overview(board)
    for task in board.plain:
        yield _task_table(task)


def remarks(board: Leaderboard) -> list[str]:
    """Say in a line each how to read the tables, and what they do not show."""
    countered = [task.countermeasure for task in board.tasks if task.countermeasure]
    lines = [
        "drop: points below clean images, paired by seed",
        "[ ]: 95 % interval over runs or seeds; of one network, over the test images alone",
        "tied: not told from the best (paired difference, Holm's method), which is not equal",
        "unknown: a single network, or no seed in common with the best",
    ]
    if countered:
        several = counted(len(set(countered)), "countermeasure")
        lines.append(f"{several}: in {TABLE} and {PAGE}")
    return [*lines, *board.notes]


def accuracy_words(value: Estimate, digits: int = 1) -> str:
    """Return an accuracy in per cent with its interval, clipped to 0 and 100."""
    if value.low is None or value.high is None:
        return percent(value.mean)
    ends = interval(max(value.low, 0), min(value.high, 1), digits, between=", ")
    return f"{percent(value.mean)} [{ends}]"


def points_words(value: Estimate | None, digits: int = 1) -> str:
    """Return a difference in points with its interval; a dash if it is unknown."""
    if value is None:
        return DASH
    if value.low is None or value.high is None:
        return percent(value.mean)
    return f"{percent(value.mean)} [{interval(value.low, value.high, digits, between=', ')}]"


def over_words(value: Estimate) -> str:
    """Say what an interval is over: `3 runs`, `3 seeds`, `1 network`."""
    nouns = {"runs": "run", "target seeds": "seed"}
    return counted(value.count, nouns.get(value.basis, "network"))


def _overview(board: Leaderboard) -> Table:
    table = _table(f"mean drop over {counted(len(board.shared), 'task')}, in points")
    for head in ("drop", "tasks", "best or tied"):
        table.add_column(head, justify="right", no_wrap=True)
    for method in board.methods_of(board.shared)[1:]:
        scores = [score for task in board.shared if (score := task.score(method))]
        good = sum(score.standing in ("best", "tied") for score in scores)
        cells = (percent(board.mean_drop(method)), str(len(scores)), str(good))
        table.add_row(method, *cells)
    return table


def _task_table(task: Task) -> Table:
    table = _table(f"{task.title}: {task.measure}, %")
    has_batches = any(score.batch for score in task.rows)
    has_eps = any(score.eps for score in task.rows)
    numbers = ("left", "drop", "over", *["eps"] * has_eps, *["B"] * has_batches, "standing")
    for head in numbers:
        table.add_column(head, justify="right", no_wrap=True)
    for score in task.rows:
        cells = [accuracy_words(score.result, 0), points_words(score.drop, 0)]
        cells += [over_words(score.result)]
        cells += [score.eps or DASH] * has_eps + [score.batch or DASH] * has_batches
        table.add_row(score.method, *cells, score.standing)
    return table


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.pad_edge = False
    table.add_column("method", overflow="fold")
    return table


def _kind(score: Score) -> dict[str, Any]:
    first = score.group.first
    return {
        "arm": first.arm,
        "fraction": first.fraction,
        "clusters": score.clusters,
        "eps": score.eps,
        "effective_batch": score.batch,
        "runs": score.runs,
        "target_seeds": score.seeds,
        "networks": len(score.entries),
    }


def _all_measures(score: Score) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for column, field in _VALUES.items():
        found |= _ends(column, score.of(field))
    return found


def _ends(name: str, value: Estimate | None, middle: str = "") -> dict[str, Any]:
    """Return an estimate and the ends of its interval as three columns."""
    mean, low, high = (value.mean, value.low, value.high) if value else (None, None, None)
    columns = (name or middle, *(f"{name or middle}_{end}" for end in ("low", "high")))
    return dict(zip(columns, map(_rounded, (mean, low, high)), strict=True))


def _rounded(value: float | None) -> float | str:
    return "" if value is None else round(value, 6)
