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

from bigbatch_ue.cell import Cell, Outcome


class Scoreboard:
    """A live table on a terminal, else a line for each cell; a context manager.

    Args:
        cells: all of the sweep.
        costs: expected seconds of each by its name; what they are wrong by is learnt on the way.
    """

    def __init__(self, cells: Sequence[Cell], costs: Mapping[str, float]) -> None:
        self._console = Console(stderr=True)
        self._costs = costs
        self._total = Counter(_row(cell) for cell in cells)
        self._left = {cell.name: costs[cell.name] for cell in cells}
        self._finished: Counter[tuple[str, str]] = Counter()
        self._failed: Counter[tuple[str, str]] = Counter()
        self._spent = self._worth = 0.0
        self._began = self._cell_began = time.monotonic()
        self._now: Cell | None = None
        self._live = Live(
            console=self._console, get_renderable=self._table, refresh_per_second=1, transient=True
        )

    def begin(self, cell: Cell) -> None:
        """This job starts on a cell."""
        self._now, self._cell_began = cell, time.monotonic()

    def end(self, cell: Cell, outcome: Outcome | None) -> None:
        """A cell is done, by this job or another one."""
        assert outcome is not None
        (self._finished if outcome.finished else self._failed)[_row(cell)] += 1
        expected = self._left.pop(cell.name)
        if self._now is not cell:
            return
        self._now = None
        self._spent += time.monotonic() - self._cell_began
        self._worth += expected
        done = sum(self._total.values()) - len(self._left)
        line = f"[{done}/{sum(self._total.values())}] {cell.name}: {outcome.state} "
        line += outcome.reason or f"in {clock(outcome.seconds)}"
        if not outcome.finished or not self._console.is_terminal:
            self._console.print(
                f"{line}; {clock(self.time_left())} left", soft_wrap=True, markup=False
            )

    def time_left(self) -> float:
        """Expected seconds until everything is done, by this job alone."""
        pace = self._spent / self._worth if self._worth else 1.0
        return sum(self._left.values()) * pace

    def _table(self) -> Table:
        numbers = [Column(name, justify="right") for name in ("cells", "done", "failed", "left")]
        table = Table("data set", "budget", *numbers)
        for row, total in self._total.items():
            done, failed = self._finished[row], self._failed[row]
            table.add_row(*row, *map(str, (total, done, failed, total - done - failed)))
        elapsed = clock(time.monotonic() - self._began)
        table.caption = f"{elapsed} gone, about {clock(self.time_left())} left"
        if self._now:
            table.caption += (
                f"\nnow, since {clock(time.monotonic() - self._cell_began)}: {self._now.name}"
            )
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


def clock(seconds: float) -> str:
    """A duration as hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))


def _row(cell: Cell) -> tuple[str, str]:
    return cell.config.data.title, cell.config.budget.kind
