"""A sweep: which runs it consists of, and doing them, one after the other or many jobs at once.

A cell is one run: train, protect, evaluate, in a folder named after a digest of its configuration.
What a cell comes to is kept in that folder, so that a sweep that was stopped goes on where it was,
and any number of jobs share one folder: a cell is theirs who hold its lease, which expires when
they die.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from filelock import SoftFileLease, Timeout
from pydantic import BeforeValidator, Field, model_validator
from rich.table import Column, Table

from bigbatch_ue.config.load import load, read_settings, resolve
from bigbatch_ue.config.schema import Config, Positive, Section, digest
from bigbatch_ue.data.decoded import DataSet, prepare
from bigbatch_ue.files.atomic import atomic_file, write_json
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.sweeps.cells import CONFIG, OUTCOME, Cell, Outcome
from bigbatch_ue.sweeps.estimate import estimate, planned
from bigbatch_ue.sweeps.progress import Scoreboard, clock
from bigbatch_ue.sweeps.worker import Worker
from bigbatch_ue.training.engine import world_size

SETTINGS = "sweep.yaml"
LEASE = 60.0
PATIENCE = 1.5 * LEASE
POLL = 2.0
_ARMS = ["clean", "random_noise", "uc"]
_VARIED = {
    "output": "output",
    "seed": "seeds",
    "batch.effective": "batches",
    "batch.scope": "scopes",
    "budget.kind": "budgets",
    "optimizer.lr_rule": "lr_rules",
}


def _size(given: Any) -> Any:
    if given == "full" or (type(given) is int and given > 0):
        return given
    raise ValueError(f"batches: {given!r} is no number of images, nor `full`")


Size = Annotated[int | Literal["full"], BeforeValidator(_size)]


class Batches(Section):
    """Effective batches: a list, or every `factor` times the one before, and `to` itself."""

    listed: tuple[Size, ...] = ()
    start: Positive | None = Field(None, alias="from")
    to: Size = "full"
    factor: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 2

    @model_validator(mode="before")
    @classmethod
    def _list(cls, given: Any) -> Any:
        return {"listed": given} if isinstance(given, list | tuple) else given

    @model_validator(mode="after")
    def _either(self) -> Self:
        if bool(self.listed) == (self.start is not None):
            raise ValueError("batches: give a list, or from, to and factor")
        return self

    def sizes(self, full: int) -> list[int]:
        """The batches where a whole cluster has `full` images, ascending, each once."""
        if self.start is None:
            return sorted({full if isinstance(size, str) else size for size in self.listed})
        last = full if isinstance(self.to, str) else self.to
        count = math.floor(math.log(max(last / self.start, 1), self.factor) + 1e-9)
        grid = {round(self.start * self.factor**i) for i in range(count + 1)}
        return sorted(size for size in {*grid, last} if size <= last)


class Images(Section):
    """One data set of a sweep: a preset or a file, and settings over it."""

    preset: str | None = None
    config: Path | None = None
    settings: dict[str, Any] = Field({})

    @model_validator(mode="before")
    @classmethod
    def _name(cls, given: Any) -> Any:
        return {"preset": given} if isinstance(given, str) else given


class Sweep(Section):
    """What is varied, and where it goes; every combination is a cell."""

    output: Path = Path("runs/sweep")
    datasets: tuple[Images, ...] = Field(min_length=1)
    batches: Batches
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = Field((0, 1, 2, 3, 4), min_length=1)
    budgets: tuple[Literal["epochs", "steps"], ...] = Field(("epochs", "steps"), min_length=1)
    lr_rules: tuple[Literal["none", "sqrt", "linear"], ...] = Field(("none",), min_length=1)
    scopes: tuple[Literal["cluster", "all"], ...] = Field(("cluster",), min_length=1)
    settings: dict[str, Any] = Field({}, description="of every cell")
    protect: bool = Field(True, description="write each cell's protected images, at training size")
    launcher: Path | None = Field(None, description="an Accelerate YAML: each cell trains under it")

    @model_validator(mode="after")
    def _settings_leave_the_varied_alone(self) -> Self:
        for settings in (self.settings, *(images.settings for images in self.datasets)):
            for key, own in _VARIED.items():
                section, _, name = key.rpartition(".")
                if name in (settings.get(section) or {} if section else settings):
                    raise ValueError(f"settings: {key} is varied by the sweep; use `{own}`")
        return self


def load_sweep(file: Path, overrides: Sequence[str] = ()) -> Sweep:
    """Read a sweep's YAML file.

    Raises:
        UserError: an unreadable file, unknown key or impossible value.
    """
    return resolve(Sweep, read_settings(file), overrides)


def cells(sweep: Sweep, *, download: bool = False) -> list[Cell]:
    """Every cell, seed by seed, so that a sweep that is stopped early has whole curves.

    Raises:
        UserError: a setting that is not possible, or a data set that cannot be had.
    """
    made: dict[str, Cell] = {}
    for seed in sweep.seeds:
        for images in sweep.datasets:
            for cell in _cells_of(sweep, images, seed, download):
                made.setdefault(cell.name, cell)
    return list(made.values())


def cell_table(cells: Sequence[Cell]) -> Table:
    """Cells with what they would cost in one process on this machine, and which are done."""
    costs = estimate(cells)
    numbers = [Column(name, justify="right") for name in ("steps", "images a step", "time")]
    table = Table("cell", *numbers, "state")
    left = 0.0
    for cell in cells:
        plan, outcome = planned(cell), cell.outcome()
        left += costs[cell.name] if outcome is None else 0
        row = (f"{plan.steps:,}", f"{plan.passes:,}", clock(costs[cell.name]))
        table.add_row(cell.name, *row, outcome.state if outcome else "to do")
    table.caption = f"{len(cells)} cells; about {clock(left)} to do in one process"
    return table


def run_sweep(
    sweep: Sweep,
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
    everything = cells(sweep, download=download)
    with atomic_file(sweep.output / SETTINGS) as temporary:
        content = sweep.model_dump(mode="json", by_alias=True)
        temporary.write_text(yaml.safe_dump(content, sort_keys=False))
    costs = estimate(everything)
    again = {cell.name: cell.outcome() for cell in everything} if retry else {}
    with Scoreboard(everything, costs) as board, Worker() as worker:
        _work_through(_mine_first(everything, shard), again, sweep, worker, board)
    return [(cell, cell.outcome()) for cell in everything]


def _work_through(
    cells: Sequence[Cell],
    again: Mapping[str, Outcome | None],
    sweep: Sweep,
    worker: Worker,
    board: Scoreboard,
) -> None:
    """Take cell after cell; then wait for those that others are at, in case their leases expire.

    A failed cell is done again if its outcome is still the one that `again` has.
    """
    claims = sweep.output / "claims"
    claims.mkdir(parents=True, exist_ok=True)
    left = [
        (cell, SoftFileLease(claims / f"{cell.name}.lock", lease_duration=LEASE)) for cell in cells
    ]
    idle_since = time.monotonic()
    while left and time.monotonic() - idle_since < PATIENCE:
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
            time.sleep(POLL)


def _claim(
    cell: Cell,
    lease: SoftFileLease,
    before: Outcome | None,
    sweep: Sweep,
    worker: Worker,
    board: Scoreboard,
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


def _do(cell: Cell, sweep: Sweep, worker: Worker, lease: SoftFileLease) -> bool:
    """Have the worker do a cell, and write down what it came to, unless it was taken from us."""
    cell.config.save(cell.folder / CONFIG)
    outcome = worker.do(
        cell.folder,
        launcher=sweep.launcher,
        protect=sweep.protect,
        lost=lambda: lease.compromise is not None,
    )
    if outcome is None:
        return False
    write_json(cell.folder / OUTCOME, {"cell": cell.axes, "outcome": vars(outcome)})
    return True


def _mine_first(everything: Sequence[Cell], shard: tuple[int, int]) -> list[Cell]:
    index, count = shard
    mine = everything[index - 1 :: count]
    names = {cell.name for cell in mine}
    return [*mine, *(cell for cell in everything if cell.name not in names)]


def _cells_of(sweep: Sweep, images: Images, seed: int, download: bool) -> Iterator[Cell]:
    """The cells of one data set and seed."""
    for scope in sweep.scopes:
        base = _base(sweep, images, seed, scope)
        data = prepare(base.data, download=download)
        sizes = sweep.batches.sizes(base.full_batch(len(data.train)))
        for budget, rule, size in product(sweep.budgets, sweep.lr_rules, sizes):
            varied = {
                "batch": base.batch.model_copy(update={"effective": size}),
                "budget": base.budget.model_copy(update={"kind": budget}),
                "optimizer": base.optimizer.model_copy(update={"lr_rule": rule}),
            }
            yield Cell(_placed(base.model_copy(update=varied), data, sweep.output), data)


def _base(sweep: Sweep, images: Images, seed: int, scope: str) -> Config:
    """What the cells of one data set, seed and scope have in common."""
    defaults = {
        "batch": {"extend": "views"},
        "evaluation": {"arms": _ARMS, "fractions": [1.0], "seeds": [seed]},
    }
    own = {"seed": seed, "batch": {"scope": scope}}
    settings = (defaults, sweep.settings, images.settings, own)
    return load(images.preset, images.config, settings=settings)


def _placed(config: Config, data: DataSet, output: Path) -> Config:
    """`config` with a folder named after all that decides what the cell comes to."""
    later = config.model_dump(mode="json", include={"target", "evaluation"})
    key = digest([config.answer(), later, data.fingerprint])
    name = (
        f"{config.data.title}-b{config.batch.effective}-s{config.seed}-{config.budget.kind}-{key}"
    )
    return config.model_copy(update={"output": output / "cells" / name})
