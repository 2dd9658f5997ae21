"""A sweep: which runs it consists of, and doing them, one after the other or many jobs at once.

A cell is one run: train, protect, evaluate, in a folder named after a digest of its configuration.
What a cell comes to is kept in that folder, so that a sweep that was stopped goes on where it was,
and any number of jobs share one folder: a cell is theirs who hold its lease, which expires when
they die.
"""

import time
from collections.abc import Mapping, Sequence

import yaml
from filelock import SoftFileLease, Timeout

from bigbatch_ue.files.atomic import atomic_file
from bigbatch_ue.files.formats import write_json
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.ranks import world_size
from bigbatch_ue.sweeps.cells import Cell, Outcome, sweep_cells
from bigbatch_ue.sweeps.estimate import estimate
from bigbatch_ue.sweeps.progress import SweepProgress
from bigbatch_ue.sweeps.spec import SweepSpec
from bigbatch_ue.sweeps.worker import Worker

SETTINGS = "sweep.yaml"
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
    """Do the cells that nobody has done or is at, those of this shard first.

    Args:
        sweep: what to do; the same for all jobs that share its folder.
        shard: (i, n), 1 <= i <= n: begin with the i-th of n parts, then take what others left.
        retry: do cells again that have failed.
        download: allow data sets to be downloaded.

    Returns:
        All cells and what they came to; None for one that another job is at.

    Raises:
        UserError: bad settings; a cell that fails is an outcome.
    """
    if world_size() > 1:
        raise UserError(
            "start the sweep itself without a launcher, and name the launcher in it: launcher: FILE"
        )
    everything = sweep_cells(sweep, download=download)
    with atomic_file(sweep.output / SETTINGS) as temporary:
        content = sweep.model_dump(mode="json", by_alias=True)
        temporary.write_text(yaml.safe_dump(content, sort_keys=False))
    costs = estimate(everything)
    again = {cell.name: cell.outcome() for cell in everything} if retry else {}
    with SweepProgress(everything, costs) as board, Worker() as worker:
        _work_through(_mine_first(everything, shard), again, sweep, worker, board)
    return [(cell, cell.outcome()) for cell in everything]


def _work_through(
    cells: Sequence[Cell],
    again: Mapping[str, Outcome | None],
    sweep: SweepSpec,
    worker: Worker,
    board: SweepProgress,
) -> None:
    """Take cell after cell; then wait for those that others are at, in case their leases expire.

    A failed cell is done again if its outcome is still the one that `again` has.
    """
    claims = sweep.output / "claims"
    claims.mkdir(parents=True, exist_ok=True)
    left = [
        (cell, SoftFileLease(claims / f"{cell.name}.lock", lease_duration=LEASE_SECONDS))
        for cell in cells
    ]
    idle_since = time.monotonic()
    while left and time.monotonic() - idle_since < PATIENCE_SECONDS:
        others = []
        for cell, lease in left:
            before = again.get(cell.name)
            if not _is_open(cell.outcome(), before):
                continue
            if _claim(cell, lease, before, sweep, worker, board):
                idle_since = time.monotonic()
            else:
                others.append((cell, lease))
        left = others
        if left:
            time.sleep(POLL_SECONDS)


def _claim(
    cell: Cell,
    lease: SoftFileLease,
    before: Outcome | None,
    sweep: SweepSpec,
    worker: Worker,
    board: SweepProgress,
) -> bool:
    """Do a cell unless another job is at it; whether it has been done."""
    try:
        with lease.acquire(blocking=False):
            if not _is_open(cell.outcome(), before):
                return True
            board.begin(cell)
            done = _do(cell, sweep, worker, lease)
            board.end(cell)
            return done
    except Timeout:
        return False


def _is_open(outcome: Outcome | None, before: Outcome | None) -> bool:
    """Whether a cell is to be done: nobody has, or it had failed and nobody has tried again."""
    return outcome is None or (not outcome.finished and outcome == before)


def _do(cell: Cell, sweep: SweepSpec, worker: Worker, lease: SoftFileLease) -> bool:
    """Have the worker do a cell, and write down what it came to, unless it was taken from us."""
    cell.config.save(cell.files.cell)
    outcome = worker.do(
        cell.files.folder,
        launcher=sweep.launcher,
        protect=sweep.protect,
        lost=lambda: lease.compromise is not None,
    )
    if outcome is None:
        return False
    write_json(cell.files.outcome, {"cell": cell.axes, "outcome": vars(outcome)})
    return True


def _mine_first(everything: Sequence[Cell], shard: tuple[int, int]) -> list[Cell]:
    index, count = shard
    mine = everything[index - 1 :: count]
    names = {cell.name for cell in mine}
    return [*mine, *(cell for cell in everything if cell.name not in names)]
