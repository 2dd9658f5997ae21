"""The arms of an evaluation as a table for the terminal."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from bigbatch_ue.config.names import ArmName
from bigbatch_ue.evaluation.arms import Arm
from bigbatch_ue.evaluation.report.groups import (
    SeedGroup,
    titled_results,
)
from bigbatch_ue.evaluation.report.page import accuracy_interval
from bigbatch_ue.reporting.words import percent


def arms_table(arms: Sequence[Arm]) -> Table:
    """Return a table that fits in 80 columns, with one row for each seed group."""
    sections = titled_results(arms)
    groups = [group for results in sections.values() for group in results.groups]
    has_countermeasures = any(group.countermeasure for group in groups)
    has_batches = any(group.first.effective_batch for group in groups)
    table = Table(
        title="accuracy on the clean test set"
        + "".join(f": {title}" for title in sections if len(sections) == 1),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("train images", overflow="fold")
    if has_countermeasures:
        table.add_column("countermeasure", no_wrap=True)
    numbers = ("n", "final\n%", "95 %\ninterval", "peak\n%", "AUC")
    for heading in (*(["B"] if has_batches else []), *numbers):
        table.add_column(heading, justify="right", no_wrap=True)
    uneven = next((group for group in groups if group.is_uneven), None)
    if uneven:
        table.caption = (
            f"always answering the most frequent class gets {percent(uneven.largest_class)} %; "
            "balanced accuracy is in the report"
        )
        table.caption_justify = "left"
    for title, results in sections.items():
        if len(sections) > 1:
            table.add_section()
            table.add_row(title, style="bold")
        for group in results.groups:
            table.add_row(*_cells(group, countermeasure=has_countermeasures, batch=has_batches))
    return table


def verdicts(arms: Sequence[Arm]) -> list[str]:
    """Say in a line each what the perturbations do to a network, and whether controls do the same.

    The lines are about the largest share of protected images, without a countermeasure.
    """
    lines = []
    sections = titled_results(arms)
    for title, results in sections.items():
        prefix = f"{title}: " if len(sections) > 1 else ""
        clean = results.control(ArmName.CLEAN)
        for group in results.headline:
            name = results.with_batch(group.name, group)
            instead = f" instead of {percent(clean.final.mean)} %" if clean else ""
            lines.append(
                f"{prefix}{name}: {percent(group.final.mean)} %{instead}; guessing gets "
                f"{percent(group.chance)} %"
            )
            verdict = results.verdict(group)
            of_several = f"{name}: " if len(results.headline) > 1 else ""
            lines += [f"{prefix}{of_several}{verdict}"] if verdict else []
            lines += [
                f"{prefix}{name}, against {line}" for line in map(str, results.comparisons(group))
            ]
    return lines


def _cells(group: SeedGroup, *, countermeasure: bool, batch: bool) -> list[str]:
    """Return the cells of a row; the flags say which optional columns there are."""
    name = str(group.first.countermeasure) if group.countermeasure else "-"
    return [
        " · ".join(filter(None, (group.name, group.labels))),
        *([name] if countermeasure else []),
        *([group.batch or "-"] if batch else []),
        str(group.final.count),
        percent(group.final.mean),
        accuracy_interval(group.final, "-", "-"),
        percent(group.summary("peak_accuracy").mean),
        f"{group.summary('auc').mean:.3f}",
    ]
