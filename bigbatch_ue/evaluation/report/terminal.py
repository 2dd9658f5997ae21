"""Arms of an evaluation as a table for the terminal."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from bigbatch_ue.evaluation.arms import Arm
from bigbatch_ue.evaluation.report.groups import SeedGroup, distinct, group_by, seed_groups
from bigbatch_ue.evaluation.report.page import interval, percent


def arms_table(arms: Sequence[Arm]) -> Table:
    """A table of the arms that fits in 80 columns, a row for those that differ in seeds only."""
    groups = seed_groups(distinct(arms))
    places = group_by(groups, lambda group: f"{group.first.dataset}, {group.first.target}")
    countered = any(group.countermeasure for group in groups)
    batches = any(group.first.effective_batch for group in groups)
    table = Table(
        title="accuracy on the clean test set"
        + "".join(f": {p}" for p in places if len(places) == 1),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("train images", overflow="fold")
    if countered:
        table.add_column("countermeasure", no_wrap=True)
    numbers = ("n", "final\n%", "95 %\ninterval", "peak\n%", "AUC")
    for heading in (*(["B"] if batches else []), *numbers):
        table.add_column(heading, justify="right", no_wrap=True)
    for place, together in places.items():
        if len(places) > 1:
            table.add_section()
            table.add_row(place, style="bold")
        for group in together:
            table.add_row(*_cells(group, countered=countered, batches=batches))
    return table


def _cells(group: SeedGroup, *, countered: bool, batches: bool) -> list[str]:
    """A row of the terminal's table."""
    batch = group.first.effective_batch
    countermeasure = str(group.first.countermeasure) if group.countermeasure else "-"
    return [
        " · ".join(filter(None, (group.name, group.labels))),
        *([countermeasure] if countered else []),
        *([f"{batch:,}" if batch else "-"] if batches else []),
        str(group.final.count),
        percent(group.final.mean),
        interval(group.final, "-", "-"),
        percent(group.of("peak_accuracy").mean),
        f"{group.of('auc').mean:.3f}",
    ]
