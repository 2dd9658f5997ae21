"""Tables of a sweep for the terminal: its cells, and its progress."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta

from rich.live import Live
from rich.table import Column, Table

from bigbatch_ue.reporting.words import counted, span
from bigbatch_ue.runtime.console import message_console, whole_lines
from bigbatch_ue.sweeps.cells import Cell
from bigbatch_ue.sweeps.estimate import estimate

_STATES = ("finished", "failed", "left")


def cell_table(cells: Sequence[Cell]) -> Table:
    """Make a table of cells: their states, and their estimated times in one process."""
    seconds = estimate(cells)
    numbers = [Column(name, justify="right") for name in ("steps", "images a step", "time")]
    table = Table("cell", *numbers, "state")
    left = 0.0
    for cell in cells:
        plan, outcome = cell.plan, cell.outcome()
        left += seconds[cell.name] if outcome is None else 0
        table.add_row(
            cell.name,
            f"{plan.steps:,}",
            span(step.images for _, step in plan.segments()),
            format_duration(seconds[cell.name]),
            outcome.state if outcome else "to do",
        )
    total = counted(len(cells), "cell")
    table.caption = f"{total}; about {format_duration(left)} left in one process"
    return table


class SweepProgress:
    """The progress of all jobs of a sweep: a live table on a terminal, else a line for each cell.

    Args:
        cells: all of the sweep, whichever job runs them.
        seconds: estimated time of each cell, by name; the pace of the jobs corrects it.
    """

    def __init__(self, cells: Sequence[Cell], seconds: Mapping[str, float]) -> None:
        self._console = whole_lines(message_console())
        self._cells, self._seconds = cells, seconds
        self._running, self._running_since = "", 0.0
        self._began = time.monotonic()
        self._read_outcomes()
        self._left_at_start = self._left

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the live table in this context, and its last state afterwards."""
        if not self._console.is_terminal:
            yield
            return
        live = Live(
            console=self._console, get_renderable=self._table, refresh_per_second=1, transient=True
        )
        try:
            with live:
                yield
        finally:
            self._console.print(self._table())

    def begin(self, cell: Cell) -> None:
        """Note that this job starts to run a cell."""
        self._running, self._running_since = cell.name, time.monotonic()

    def end(self, cell: Cell) -> None:
        """Note that this job has run a cell, and report its outcome."""
        self._running = ""
        self._read_outcomes()
        outcome = cell.outcome()
        if outcome is None or (outcome.finished and self._console.is_terminal):
            return
        done = sum(n for (*_, state), n in self._counts.items() if state != "left")
        details = outcome.reason or f"in {format_duration(outcome.seconds)}"
        self._console.print(
            f"[{done}/{len(self._cells)}] {cell.name}: {outcome.state} {details}; "
            f"about {format_duration(self.time_left())} left",
            soft_wrap=True,
            markup=False,
            highlight=False,
        )

    def time_left(self) -> float:
        """Return the expected seconds until all cells have an outcome, at the pace so far."""
        done = self._left_at_start - self._left
        elapsed = time.monotonic() - self._began
        return self._left * (elapsed / done if done else 1)

    def _read_outcomes(self) -> None:
        outcomes = [(cell, cell.outcome()) for cell in self._cells]
        self._counts: Counter[tuple[str, str, str]] = Counter(
            (*_row(cell), outcome.state if outcome else "left") for cell, outcome in outcomes
        )
        self._left = sum(self._seconds[c.name] for c, o in outcomes if o is None)

    def _table(self) -> Table:
        numbers = [Column(state, justify="right") for state in _STATES]
        table = Table("data set", "budget", *numbers)
        for row in dict.fromkeys(map(_row, self._cells)):
            table.add_row(*row, *(str(self._counts[*row, state]) for state in _STATES))
        elapsed = format_duration(time.monotonic() - self._began)
        table.caption = f"{elapsed} elapsed, about {format_duration(self.time_left())} left"
        if self._running:
            running = format_duration(time.monotonic() - self._running_since)
            table.caption += f"\nrunning {self._running} for {running}"
        return table


def format_duration(seconds: float) -> str:
    """Format a duration as hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))


def _row(cell: Cell) -> tuple[str, str]:
    return cell.config.data.shown_as, cell.config.budget.kind
