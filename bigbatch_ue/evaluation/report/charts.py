"""Charts of an evaluation: accuracies, learning curves, partial protection, confusion matrices."""

from collections.abc import Mapping, Sequence
from itertools import count

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bigbatch_ue.config.names import ArmName
from bigbatch_ue.evaluation.arms import ARM_NAMES
from bigbatch_ue.evaluation.report.groups import TargetResults, group_by, row_fractions

_LINE_STYLES = ("-", "--", "-.", ":")


def learning_curves(results: TargetResults) -> Figure | None:
    """Draw test accuracy by epoch: the mean of the seeds over a band from minimum to maximum.

    Partial protection is left out; without any other arm the result is None.
    """
    groups = [group for group in results.main if group.first.fraction in (0, 1)]
    if not groups:
        return None
    figure, axes = _accuracy_chart("epoch", groups[0].chance)
    styles = _line_styles([group.first.arm for group in groups])
    for group, style in zip(groups, styles, strict=True):
        epochs = min(len(arm.accuracies) for arm in group.arms)
        values = 100 * np.array([arm.accuracies[:epochs] for arm in group.arms])
        steps, colour = np.arange(1, epochs + 1), group.colour
        axes.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.18, lw=0)
        marker, label = "o" if epochs == 1 else None, results.long_name(group)
        axes.plot(steps, values.mean(0), color=colour, ls=style, lw=1.8, marker=marker, label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(figure)
    return figure


def partial_protection(results: TargetResults) -> Figure | None:
    """Draw final accuracy, with its interval if known, by the protected fraction of the images.

    With fewer than two fractions the result is None.
    """
    groups = [g for g in results.main if g.is_evaluated or g.first.arm == ArmName.UNPROTECTED]
    if len({group.first.fraction for group in groups if group.is_evaluated}) < 2:
        return None
    clean = results.control(ArmName.CLEAN)
    start = [(0.0, clean.final)] if clean else []
    figure, axes = _accuracy_chart("protected fraction of the train images, %", groups[0].chance)
    trends = list(group_by(groups, lambda g: (g.first.arm, g.first.effective_batch)).values())
    styles = _line_styles([same[0].first.arm for same in trends])
    for rank, (same, style) in enumerate(zip(trends, styles, strict=True)):
        points = [*start, *((group.first.fraction, group.final) for group in same)]
        summaries = [summary for _, summary in points]
        means = 100 * np.array([summary.mean for summary in summaries])
        lows, highs = (
            100
            * np.array([s.mean if (end := getattr(s, side)) is None else end for s in summaries])
            for side in ("low", "high")
        )
        axes.errorbar(
            [100 * fraction for fraction, _ in points],
            means,
            yerr=(means - lows, highs - means),
            color=same[0].colour,
            ls=style,
            lw=1.8,
            marker="o",
            markersize=max(9 - 3 * rank, 4),
            capsize=3,
            label=results.with_batch(ARM_NAMES[ArmName(same[0].first.arm)], same[0]),
        )
    _legend(figure)
    return figure


def accuracies(sections: Mapping[str, TargetResults]) -> Figure:
    """Draw final accuracy on clean test images: a row for each seed group, below the title of each.

    A bar is the mean of the seeds, a point is one seed, a line is the 95 % interval if known.
    """
    rows = [
        [
            (": ".join(filter(None, (heading, name))), group)
            for heading, own in results.charted
            for name, group in own
        ]
        for results in sections.values()
    ]
    heights = [len(groups) for groups in rows]
    size = (6.6, 0.36 * sum(heights) + 1.1 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(rows), squeeze=False, height_ratios=heights, sharex=True)
    for axes, title, groups in zip(grid.flat, sections, rows, strict=True):
        for y, (_, group) in enumerate(groups):
            seeds = [100 * arm.final_accuracy for arm in group.arms]
            axes.barh(y, 100 * group.final.mean, color=group.colour, alpha=0.45, height=0.66)
            axes.plot(seeds, [y] * len(seeds), "o", ms=5, color=group.colour, mec="white")
            low, high = group.final.low, group.final.high
            if low is not None and high is not None:
                ends = np.clip([low, high], 0, 1)
                axes.plot(100 * ends, [y, y], color="0.2", lw=1.2)
        chance = groups[0][1].chance
        axes.axvline(100 * chance, color="0.35", ls=":", lw=1.2)
        axes.annotate(
            "chance",
            (100 * chance, 1),
            (3, 3),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            fontsize=8,
            color="0.35",
        )
        axes.set_yticks(range(len(groups)), [name for name, _ in groups])
        axes.set(xlim=(0, 100), ylim=(len(groups) - 0.5, -0.5))
        axes.set_title(title, loc="left", pad=16)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="0.9")
        axes.set_axisbelow(True)
    grid[-1, 0].set_xlabel("accuracy on clean test images, %")
    return figure


def confusion_matrix(confusion: Sequence[Sequence[int]]) -> Figure:
    """Draw a heat map of the fractions of each true class (rows) by predicted class."""
    figure = Figure(figsize=(3.6, 3.2), dpi=100)
    axes = figure.subplots(gridspec_kw={"left": 0.17, "right": 0.98, "bottom": 0.15, "top": 0.96})
    axes.set(xlabel="predicted class", ylabel="true class")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    heat = axes.imshow(row_fractions(confusion), cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(heat, shrink=0.9)
    return figure


def _accuracy_chart(xlabel: str, chance: float) -> tuple[Figure, Axes]:
    """Create axes of test accuracy with the chance level, legible on a phone."""
    figure = Figure(figsize=(5.2, 3.9), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=xlabel, ylabel="test accuracy, %", ylim=(-2, 102))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.margins(x=0.02)
    axes.axhline(100 * chance, color="0.35", ls=":", lw=1.2, label="chance")
    return figure, axes


def _legend(figure: Figure) -> None:
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)


def _line_styles(arms: Sequence[str]) -> list[str]:
    """Return a line style for each arm; equal arms, and so equal colours, differ in it."""
    counters = {arm: count() for arm in arms}
    return [_LINE_STYLES[next(counters[arm]) % len(_LINE_STYLES)] for arm in arms]
