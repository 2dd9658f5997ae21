"""What a sweep shows of itself while it goes on: cells done and left, and how long it will take."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Column, Table

from bigbatch_ue.sweeps.cells import Cell


class SweepProgress:
    """A live table on a terminal, else a line for each cell; a context manager.

    Args:
        cells: all of the sweep, whichever job does them.
        costs: expected seconds of each by its name; what they are wrong by is learnt on the way.
    """

    def __init__(self, cells: Sequence[Cell], costs: Mapping[str, float]) -> None:
        self._console = Console(stderr=True)
        self._cells, self._costs = cells, costs
        self._now, self._now_began = "", 0.0
        self._began = time.monotonic()
        self._look()
        self._worth_at_start = self._worth
        self._live = Live(
            console=self._console, get_renderable=self._table, refresh_per_second=1, transient=True
        )

    def begin(self, cell: Cell) -> None:
        """This job starts on a cell."""
        self._now, self._now_began = cell.name, time.monotonic()

    def end(self, cell: Cell) -> None:
        """This job is done with a cell."""
        self._now = ""
        self._look()
        outcome = cell.outcome()
        if outcome is None or (outcome.finished and self._console.is_terminal):
            return
        done = sum(n for (_, state), n in self._states.items() if state != "left")
        what = outcome.reason or f"in {format_duration(outcome.seconds)}"
        line = f"[{done}/{len(self._cells)}] {cell.name}: {outcome.state} {what}"
        left = f"about {format_duration(self.time_left())} left"
        self._console.print(f"{line}; {left}", soft_wrap=True, markup=False, highlight=False)

    def time_left(self) -> float:
        """Expected seconds until everything is done, at the pace of all jobs so far."""
        done = self._worth_at_start - self._worth
        gone = time.monotonic() - self._began
        return self._worth * (gone / done if done else 1)

    def _look(self) -> None:
        """Read what cells have come to, whoever did them."""
        outcomes = [(cell, cell.outcome()) for cell in self._cells]
        self._states: Counter[tuple[tuple[str, str], str]] = Counter(
            (_row(c), o.state if o else "left") for c, o in outcomes
        )
        self._worth = sum(self._costs[c.name] for c, o in outcomes if o is None)

    def _table(self) -> Table:
        states = ("finished", "failed", "left")
        numbers = [Column(name, justify="right") for name in states]
        table = Table("data set", "budget", *numbers)
        for row in dict.fromkeys(_row(cell) for cell in self._cells):
            table.add_row(*row, *(str(self._states[row, state]) for state in states))
        gone = format_duration(time.monotonic() - self._began)
        table.caption = f"{gone} gone, about {format_duration(self.time_left())} left"
        if self._now:
            since = format_duration(time.monotonic() - self._now_began)
            table.caption += f"\nnow {self._now}, since {since}"
        return table

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()
            self._console.print(self._table())


def format_duration(seconds: float) -> str:
    """A duration as hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))


def _row(cell: Cell) -> tuple[str, str]:
    return cell.config.data.title, cell.config.budget.kind
