"""The report of a sweep: a self-contained page, and Markdown beside the plots."""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.findings.critical_batch import span, statements
from analysis.findings.findings import Finding, Findings, budgets
from analysis.findings.sentences import KINDS, label, recommendation
from analysis.findings.sizes import summarise_sizes
from analysis.fits.components import Spread
from analysis.fits.confound import Separation
from analysis.fits.mean import MARGIN, MeanFit
from analysis.table.collect import Collection
from analysis.table.table import Curve
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
            name: [recommendation(finding) for finding in same if finding in main]
            for name, same in findings.datasets.items()
        },
        "criticals": criticals,
        "others": [recommendation(finding) for finding in shown if finding not in main],
        "pictures": list(_pictures(findings)),
        "accuracies": [_accuracy_table(name, f, collection) for name, f in titled],
        "fits": _fit_table(titled),
        "families": _weight_table(titled),
        "components": _component_table(titled),
        "next_seeds": [
            f"{name}: {found.shares()} {found.next_seeds()}"
            for name, finding in titled
            if finding in main and (found := finding.components)
        ],
        "instabilities": _instability_table(titled),
        "separations": findings.separations,
        "unseparated": findings.problems,
        "confounds": list(_steps_pictures(findings)),
        "separation_table": _separation_table(findings.separations),
        "left_out": _left_out_table(collection),
        "settings": collection.settings,
        "versions": collection.versions,
        "commands": [*collection.commands, command],
        "runs": collection.table.groupby(["run", "dataset"]).ngroups,
        "guide": list(guide(margin=margin, has_prediction=bool(criticals))),
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
    best = ("best B", "95 % interval", "accuracy, %", "95 % interval", "as good")
    heads = ("curve", *best, "largest difference", "flat")
    rows = [
        (name, *_best_cells(fit), f"< {percent(fit.difference)}", p_value(fit.flat_p))
        if (fit := finding.mean)
        else (name, f"not fitted: {finding.problem}", *[DASH] * (len(heads) - 2))
        for name, finding in titled
    ]
    return TextTable("Best batch sizes", heads, rows)


def _weight_table(titled: Sequence[tuple[str, Finding]]) -> TextTable:
    fits = {name: finding.mean.families for name, finding in titled if finding.mean}
    families = sorted({family.name for found in fits.values() for family in found})
    rows = []
    for name, found in fits.items():
        weights = {family.name: f"{family.weight:.2f}" for family in found}
        rows.append((name, *(weights.get(family, DASH) for family in families)))
    return TextTable("Weights of the families", ("curve", *families), rows)


def _best_cells(fit: MeanFit) -> tuple[str, ...]:
    sign = {"at least": "≥ ", "at most": "≤ "}.get(fit.verdict, "")
    best = fit.verdict if fit.optimum is None else f"{sign}{round(fit.optimum):,}"
    ends = DASH if fit.interval is None else _span(map(round, fit.interval))
    plateau = DASH if fit.verdict == "cannot tell" else _span(dict.fromkeys(fit.plateau))
    return best, ends, percent(fit.best), interval(*fit.best_interval), plateau


def _component_table(titled: Sequence[tuple[str, Finding]]) -> TextTable:
    heads = ("curve", "seed", "run", "target", "run and target", "seeds", "runs", "targets")
    rows = []
    for name, finding in titled:
        if found := finding.components:
            parts = (found.seed, found.run, found.target, found.run_and_target)
            counts = (found.seeds, found.runs, found.targets)
            rows.append((name, *map(_part, parts), *map(str, counts)))
    return TextTable("Parts of the spread", heads, rows)


def _instability_table(titled: Sequence[tuple[str, Finding]]) -> TextTable:
    heads = ("curve", "kind", "unstable at", "slope, small B", "slope, large B", "both ends")
    rows = [
        (
            name,
            "across seeds" if kind == "seeds" else kind,
            fit.shape,
            _slope(fit.slope_low, fit.slope_low_error),
            _slope(fit.slope_high, fit.slope_high_error),
            p_value(fit.both_ends_p),
            p_value(fit.trend_p),
            DASH if fit.calmest is None else f"{round(fit.calmest):,}",
            _batch_interval(fit.calmest_interval, finding.curve),
        )
        for name, finding in titled
        for kind in KINDS
        if (fit := finding.instability(kind)) and fit.is_measured
    ]
    return TextTable("Instability", (*heads, "trend", "calmest B", "95 % interval"), rows, texts=3)


def _separation_table(separations: Sequence[Separation]) -> TextTable:
    heads = ("curve", "B", "change, equal epochs", "change, equal steps", "difference")
    rows = [
        (
            one.dataset,
            _span((one.smallest, one.largest)),
            _change(one.change_epochs, one.change_epochs_interval),
            _change(one.change_steps, one.change_steps_interval),
            p_value(one.difference_p),
            f"{100 * one.share:.0f} [{interval(*one.share_interval, 0)}]"
            if one.share_interval
            else "not bounded",
            p_value(one.batch_p),
            p_value(one.steps_p),
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


def _slope(value: float, error: float) -> str:
    return f"{value:+.2f} ± {error:.2f}" if math.isfinite(value) else DASH


def _batch_interval(ends: tuple[float, float] | None, curve: Curve) -> str:
    """Return an interval of B; an end beyond the sizes of the curve becomes a bound."""
    if ends is None:
        return DASH
    first, last = int(curve.batches[0]), int(curve.batches[-1])
    low = f"< {first:,}" if ends[0] < first else f"{round(ends[0]):,}"
    high = f"> {last:,}" if ends[1] > last else f"{round(ends[1]):,}"
    return f"{low} to {high}"


def _unbroken(text: str) -> str:
    """Make spaces non-breaking between a number and its sign, and within intervals."""
    spaces = r"(?<=\d) (?=%)|(?<=\b[Bp]) (?=[=<])|(?<=[=<]) (?=\d)|(?<=\d,) (?=-?\d[\d.]*\])"
    return re.sub(spaces, "\N{NO-BREAK SPACE}", text)


def _markdown(text: str) -> str:
    """Escape `text` for one line or cell of Markdown."""
    return re.sub(r"([\\`*|]|<(?=[a-zA-Z/!?]))", r"\\\1", " ".join(text.split()))
