"""A job: one of the processes that run the cells of a sweep together.

A cell is one run: train, protect, evaluate, in a folder named after a digest of its configuration.
Its outcome is a file in that folder, so a sweep that was stopped continues where it was. Any number
of jobs share one folder. A job owns a cell while it holds the cell's lease; the lease expires when
the job dies.
"""

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from filelock import SoftFileLease, Timeout

from bigbatch_ue.files.atomic import atomic_file
from bigbatch_ue.files.formats import write_json
from bigbatch_ue.files.yaml_files import format_yaml
from bigbatch_ue.runtime.console import note
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.ranks import world_size
from bigbatch_ue.sweeps.cells import Cell, Outcome, sweep_cells
from bigbatch_ue.sweeps.estimate import estimate
from bigbatch_ue.sweeps.folder import SPECIFICATION
from bigbatch_ue.sweeps.pilot import describe_round, midway_strengths, pilot_of, with_strengths
from bigbatch_ue.sweeps.power import describe_power
from bigbatch_ue.sweeps.progress import SweepProgress
from bigbatch_ue.sweeps.spec import SweepSpec
from bigbatch_ue.sweeps.strength import write_strengths
from bigbatch_ue.sweeps.worker import Worker

LEASE_SECONDS = 60.0
PATIENCE_SECONDS = 1.5 * LEASE_SECONDS
POLL_SECONDS = 2.0


def run_sweep(
    sweep: SweepSpec,
    *,
    shard: tuple[int, int] = (1, 1),
    retry: bool = False,
    download: bool = False,
) -> list[tuple[Cell, Outcome | None]]:
    """Run all cells that are neither finished nor claimed, starting with this shard's.

    Args:
        sweep: the specification; the same for all jobs that share its folder.
        shard: (i, n), 1 <= i <= n: start with the i-th of n shards, then run what is left.
        retry: run failed cells again.
        download: allow the data sets to be downloaded.

    Returns:
        All cells and their outcomes; None for a cell that another job is running.

    Raises:
        UserError: a bad setting, or a launcher around the sweep itself. A failed cell is an
            outcome, not an error.
    """
    if world_size() > 1:
        raise UserError(
            "sweep: a launcher started this process; start the sweep without one, and name the "
            "engine of its cells in the sweep file (launcher: ENGINE)"
        )
    cells = sweep_cells(sweep, download=download)
    note(describe_power([cell.config for cell in cells]))
    _write_specification(sweep)
    with closing(Worker()) as worker:

        def run(spec: SweepSpec, cells: Sequence[Cell], patience: float) -> None:
            retried = {cell.name: cell.outcome() for cell in cells} if retry else {}
            progress = SweepProgress(cells, estimate(cells))
            with progress.shown():
                Job(spec, worker, progress, retried).run(_own_first(cells, shard), patience)

        def run_pilot(cells: Sequence[Cell]) -> None:
            note(describe_round(cells))
            run(pilot_of(sweep), cells, math.inf)  # all jobs need its result

        if sweep.strength == "midway":
            strengths = midway_strengths(sweep, run_pilot, download=download)
            write_strengths(sweep.output, strengths)
            for chosen in strengths:
                note(str(chosen))
            sweep = with_strengths(sweep, strengths)
            cells = sweep_cells(sweep, download=download)
        run(sweep, cells, PATIENCE_SECONDS)
    return [(cell, cell.outcome()) for cell in cells]


def _write_specification(sweep: SweepSpec) -> None:
    with atomic_file(sweep.output / SPECIFICATION) as temporary:
        content = sweep.model_dump(mode="json", by_alias=True)
        temporary.write_text(format_yaml(content))


def _own_first(cells: Sequence[Cell], shard: tuple[int, int]) -> list[Cell]:
    """Order the cells of the shard before all others."""
    index, count = shard
    own = range(index - 1, len(cells), count)
    return [cells[i] for i in sorted(range(len(cells)), key=lambda i: i not in own)]


def claim_on(cell: Cell, folder: Path) -> SoftFileLease:
    """Make the lease of a cell; it watches for how long the claim of another job is not renewed."""
    return SoftFileLease(folder / f"{cell.name}.lock", lease_duration=LEASE_SECONDS)


@dataclass(frozen=True)
class Job:
    """One of the jobs of a sweep.

    Attributes:
        sweep: the specification.
        worker: runs the cells.
        progress: is notified of the cells that this job runs.
        retried: outcomes by cell name; a failed cell runs again if it still has this outcome.
    """

    sweep: SweepSpec
    worker: Worker
    progress: SweepProgress
    retried: Mapping[str, Outcome | None]

    def run(self, cells: Sequence[Cell], patience: float) -> None:
        """Run cell after cell, then wait for those of other jobs, in case their leases expire.

        Args:
            cells: in the order in which to run them.
            patience: seconds to wait without a cell to run.
        """
        claims = self.sweep.output / "claims"
        claims.mkdir(parents=True, exist_ok=True)
        left = [(cell, claim_on(cell, claims)) for cell in cells]
        idle_since = time.monotonic()
        while left and time.monotonic() - idle_since < patience:
            claimed_by_others = []
            for cell, lease in left:
                if not self._is_open(cell):
                    continue
                if self.run_unclaimed(cell, lease):
                    idle_since = time.monotonic()
                else:
                    claimed_by_others.append((cell, lease))
            left = claimed_by_others
            if left:
                time.sleep(POLL_SECONDS)

    def run_unclaimed(self, cell: Cell, lease: SoftFileLease) -> bool:
        """Run a cell unless another job has claimed it; return whether this job still owns it."""
        try:
            with lease.acquire(blocking=False):
                return not self._is_open(cell) or self._run_claimed(cell, lease)
        except Timeout:
            return False

    def _is_open(self, cell: Cell) -> bool:
        """Return whether a cell has no outcome, or one that is to be tried again."""
        outcome = cell.outcome()
        if outcome is None:
            return True
        return not outcome.finished and outcome == self.retried.get(cell.name)

    def _run_claimed(self, cell: Cell, lease: SoftFileLease) -> bool:
        """Run a cell and write its outcome, unless the lease is lost meanwhile."""
        self.progress.begin(cell)
        cell.config.save(cell.files.cell)
        outcome = self.worker.run(
            cell.files.folder,
            launcher=self.sweep.launcher,
            protect=self.sweep.protect,
            lost=lambda: lease.compromise is not None,
        )
        if outcome is not None:
            write_json(cell.files.outcome, {"cell": cell.axes, "outcome": vars(outcome)})
        self.progress.end(cell)
        return outcome is not None
