"""The report of a sweep: a self-contained page, and Markdown beside the plots."""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.defaults import MARGIN
from analysis.findings.critical_batch import span, statements
from analysis.findings.findings import Finding, Findings, budgets
from analysis.findings.sentences import (
    KINDS,
    label,
    recommendation,
    together_statement,
    together_title,
)
from analysis.findings.sizes import summarise_sizes
from analysis.fits.components import Spread
from analysis.fits.confound import Separation
from analysis.fits.instability import InstabilityFit
from analysis.fits.mean import MeanFit
from analysis.fits.together import Together
from analysis.table.collect import Collection
from analysis.table.table import rows_of
from analysis.views.guide import guide
from analysis.views.panels import page_uri
from analysis.views.plot import (
    ALL,
    curves_figure,
    file_names,
    overview_figure,
    steps_figure,
)
from bigbatch_ue.files.paths import hide_home
from bigbatch_ue.reporting.page import page_environment, write_page
from bigbatch_ue.reporting.words import DASH, interval, number, p_value, percent

PAGE, MARKDOWN = "report.html", "report.md"


@dataclass(frozen=True)
class TextTable:
    """A table of words.

    Attributes:
        title: title of the table.
        heads: heading of each column.
        rows: rows of as many cells.
        texts: number of columns, from the left, that contain text and not numbers.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 1


@dataclass(frozen=True)
class Picture:
    """A plot on the page and as a file.

    Attributes:
        alt: description.
        name: file name of the plot, without suffix.
        parts: `data:` URIs of its parts for the page.
    """

    alt: str
    name: str
    parts: Sequence[str]


def write_report(collection: Collection, findings: Findings, folder: Path) -> Path:
    """Write `report.html`, which contains its plots, and `report.md`, which shows those in `plots`.

    Args:
        collection: the table, and the commands and settings it comes from.
        findings: findings of this table.
        folder: output folder; `plot.plot` writes its `plots`.

    Returns:
        The path of the page.
    """
    content = _content(collection, findings, folder)
    environment = page_environment("analysis.views", markdown=_markdown, unbroken=_unbroken)
    for name in (MARKDOWN, PAGE):
        write_page(folder / name, environment, content)
    return folder / PAGE


def _content(collection: Collection, findings: Findings, folder: Path) -> dict[str, Any]:
    main = findings.main
    shown = [finding for same in findings.datasets.values() for finding in same]
    curves = [finding.curve for finding in shown]
    titles = [f"{label(curve, curves)}, equal {curve.budget}" for curve in curves]
    titled = list(zip(titles, shown, strict=True))
    criticals = statements(findings)
    margin = next((100 * f.mean.margin for f in shown if f.mean), 100 * MARGIN)
    command = f"python -m analysis report {hide_home(folder.as_posix())}"
    return {
        "datasets": {
            name: [recommendation(finding, curves) for finding in same if finding in main]
            for name, same in findings.datasets.items()
        },
        "criticals": criticals,
        "strengths": collection.strengths,
        "others": [recommendation(finding, curves) for finding in shown if finding not in main],
        "pictures": list(_pictures(findings)),
        "accuracies": [_accuracy_table(name, f, collection) for name, f in titled],
        "fits": _fit_table(titled),
        "tests": _test_table(titled),
        "agreements": _agreement_table([one for one in titled if one[1] in main], collection.table),
        "components": _component_table(titled),
        "next_seeds": [
            f"{name}: {found.shares()} {found.next_seeds()}"
            for name, finding in titled
            if finding in main and (found := finding.components)
        ],
        "together": list(map(together_statement, findings.together)),
        "instabilities": _instability_table(
            [*titled, *((together_title(one), one) for one in findings.together)]
        ),
        "separations": findings.separations,
        "unseparated": findings.problems,
        "confounds": list(_steps_pictures(findings)),
        "separation_table": _separation_table(findings.separations),
        "left_out": _left_out_table(collection),
        "settings": collection.settings,
        "versions": collection.versions,
        "commands": [*collection.commands, command],
        "runs": collection.table.groupby(["run", "dataset"]).ngroups,
        "guide": list(
            guide(
                margin=margin, has_prediction=bool(criticals), has_several=bool(findings.together)
            )
        ),
    }


# -- pictures ------------------------------------------------------------------------------------


def _pictures(findings: Findings) -> Iterator[Picture]:
    names = file_names(findings)
    if len(names) > 1:
        parts = [
            page_uri(overview_figure(findings.findings, [budget]))
            for budget in budgets(findings.findings)
        ]
        yield Picture("all data sets", ALL, parts)
    for name, same in findings.datasets.items():
        parts = [
            page_uri(curves_figure([f for f in same if f.curve.budget == budget], same))
            for budget in budgets(same)
        ]
        yield Picture(name, names[name], parts)


def _steps_pictures(findings: Findings) -> Iterator[Picture]:
    names = file_names(findings)
    for name, pairs in findings.pairs.items():
        uri = page_uri(steps_figure(pairs, stacked=True))
        yield Picture(name, f"steps-{names[name]}", [uri])


# -- tables --------------------------------------------------------------------------------------


def _accuracy_table(name: str, finding: Finding, collection: Collection) -> TextTable:
    sizes = summarise_sizes(finding, collection.table)
    has_prediction = any(size.critical for size in sizes)
    heads = ("B", "mean, %", "95 % interval", "std across seeds", "oscillation", "n", "failed")
    more = ("steps", "images/s", "peak MiB", *["critical B (80 %)"] * has_prediction)
    rows = [
        (
            f"{size.batch:,}",
            percent(size.mean),
            interval(size.low, size.high),
            percent(size.std),
            percent(size.oscillation),
            f"{size.count}",
            f"{size.failed}",
            f"{size.steps:,}",
            number(size.images_per_second),
            number(size.memory),
            *[span(size.critical) if size.critical else DASH] * has_prediction,
        )
        for size in sizes
    ]
    return TextTable(name, (*heads, *more), rows)


def _fit_table(titled: Sequence[tuple[str, Finding]]) -> TextTable:
    heads = ("curve", "best B", "95 % interval", "accuracy, %", "95 % interval", "as good")
    rows = [
        (name, *_best_cells(fit))
        if (fit := finding.mean)
        else (name, f"not fitted: {finding.problem}", *[DASH] * (len(heads) - 2))
        for name, finding in titled
    ]
    return TextTable("Best batch sizes", heads, rows)


def _best_cells(fit: MeanFit) -> tuple[str, ...]:
    is_shown = fit.verdict == "effect"
    best = f"{round(fit.optimum):,}" if is_shown else fit.verdict
    ends = _span(map(round, fit.interval)) if is_shown else DASH
    as_good = ", ".join(f"{size:,}" for size in fit.as_good) or "none shown"
    return best, ends, percent(fit.best), interval(*fit.best_interval), as_good


def _test_table(titled: Sequence[tuple[str, Finding]]) -> TextTable:
    heads = ("curve", "B matters", "unadjusted", "falls and rises", "unadjusted")
    rows = [
        (
            name,
            *map(p_value, (fit.adjusted_p, fit.flat_p, fit.adjusted_valley_p, fit.valley_p)),
            f"< {percent(fit.difference)}",
            percent(fit.detectable),
        )
        for name, finding in titled
        if (fit := finding.mean)
    ]
    return TextTable("Does B matter?", (*heads, "largest difference", "found with 80 %"), rows)


def _agreement_table(titled: Sequence[tuple[str, Finding]], table: pd.DataFrame) -> TextTable:
    heads = ("curve", "clusters tell (NMI)", "purity", "clean, %", "at best, %", "points lost")
    rows = []
    for name, finding in titled:
        told = rows_of(finding.curve, table)[["agreement", "purity"]].mean()
        if finding.mean and math.isfinite(told["agreement"]):
            clean, best = finding.curve.clean, finding.mean.best
            accuracies = (percent(clean), percent(best), percent(clean - best))
            rows.append((name, *(f"{value:.2f}" for value in told), *accuracies))
    rows.sort(key=lambda row: row[1], reverse=True)
    return TextTable("Protection and agreement", heads, rows)


def _component_table(titled: Sequence[tuple[str, Finding]]) -> TextTable:
    heads = ("curve", "seed", "run", "target", "run and target", "seeds", "runs", "targets")
    rows = []
    for name, finding in titled:
        if found := finding.components:
            parts = (found.seed, found.run, found.target, found.run_and_target)
            counts = (found.seeds, found.runs, found.targets)
            rows.append((name, *map(_part, parts), *map(str, counts)))
    return TextTable("Parts of the spread", heads, rows)


def _instability_table(titled: Sequence[tuple[str, Finding | Together]]) -> TextTable:
    heads = ("curve", "kind", "unstable at", "largest B / smallest B", "both ends", "trend")
    rows = [
        (
            name,
            "across seeds" if kind == "seeds" else kind,
            fit.shape,
            _factor(fit),
            p_value(fit.adjusted_both_ends_p),
            p_value(fit.adjusted_trend_p),
        )
        for name, one in titled
        for kind in KINDS
        if (fit := one.instability(kind)) and fit.is_measured
    ]
    return TextTable("Instability", heads, rows, texts=3)


def _separation_table(separations: Sequence[Separation]) -> TextTable:
    heads = ("curve", "B", "change, equal epochs", "change, equal steps", "difference")
    rows = [
        (
            one.dataset,
            _span((one.smallest, one.largest)),
            _change(one.change_epochs, one.change_epochs_interval),
            _change(one.change_steps, one.change_steps_interval),
            p_value(one.adjusted[0]),
            f"{100 * one.share:.0f} [{interval(*one.share_interval, 0)}]"
            if one.share_interval
            else "not bounded",
            p_value(one.adjusted[1]),
            p_value(one.adjusted[2]),
        )
        for one in separations
    ]
    more = ("with fewer steps, %", "B given steps", "steps given B")
    return TextTable("Batch size or steps", (*heads, *more), rows)


def _left_out_table(collection: Collection) -> TextTable:
    failed = collection.table[collection.table["failed"]].drop_duplicates(["run", "reason"])
    rows = [(run, "failed", reason) for run, reason in failed[["run", "reason"]].to_numpy()]
    rows += [(problem.run, "left out", problem.reason) for problem in collection.problems]
    return TextTable("Failed and left-out runs", ("run", "outcome", "reason"), rows, texts=3)


# -- words ---------------------------------------------------------------------------------------


def _span(ends: Iterable[int]) -> str:
    return " to ".join(f"{end:,}" for end in ends)


def _change(value: float, ends: tuple[float, float]) -> str:
    return f"{100 * value:+.1f} [{interval(*ends)}]"


def _part(spread: Spread | None) -> str:
    return f"{percent(spread.std)} [{interval(spread.low, spread.high)}]" if spread else DASH


def _factor(fit: InstabilityFit) -> str:
    if not math.isfinite(fit.change):
        return DASH
    low, high = fit.change_interval
    return f"{fit.change:.2g} [{low:.2g} to {high:.2g}]"


def _unbroken(text: str) -> str:
    """Make spaces non-breaking between a number and its sign, and within intervals."""
    spaces = r"(?<=\d) (?=%)|(?<=\b[Bp]) (?=[=<])|(?<=[=<]) (?=\d)|(?<=\d,) (?=-?\d[\d.]*\])"
    return re.sub(spaces, "\N{NO-BREAK SPACE}", text)


def _markdown(text: str) -> str:
    """Escape `text` for one line or cell of Markdown."""
    return re.sub(r"([\\`*|]|<(?=[a-zA-Z/!?]))", r"\\\1", " ".join(text.split()))
