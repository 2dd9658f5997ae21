"""A cell of a sweep: one run, its folder, and what it came to."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

from bigbatch_ue.config.load import load_config
from bigbatch_ue.config.schema import Config
from bigbatch_ue.data.decoded import DataSet, prepare_dataset
from bigbatch_ue.files.formats import digest, read_json
from bigbatch_ue.runs.folder import RunFiles
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.sweeps.spec import SweepDataset, SweepSpec


@dataclass(frozen=True)
class Outcome:
    """What a cell came to.

    Attributes:
        state: whether it was finished.
        reason: why it failed, in one line; empty if it did not.
        seconds: that it took.
    """

    state: Literal["finished", "failed"]
    reason: str
    seconds: float

    @property
    def finished(self) -> bool:
        """Whether there are results."""
        return self.state == "finished"


@dataclass(frozen=True)
class Cell:
    """One run of a sweep; `config` is all that decides it, and says where it goes."""

    config: Config
    data: DataSet

    @property
    def files(self) -> RunFiles:
        """The run's folder."""
        return RunFiles(self.config.run_folder)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.files.folder.name

    @property
    def axes(self) -> dict[str, Any]:
        """What a sweep varies, and at which batch a step sees a whole cluster (`full`)."""
        return {**self.config.axes, "full": self.config.full_batch(len(self.data.train))}

    def outcome(self) -> Outcome | None:
        """What it came to, or None if it has not been done.

        Raises:
            UserError: a file that is torn or of another kind.
        """
        path = self.files.outcome
        if not path.exists():
            return None
        try:
            return Outcome(**read_json(path, dict)["outcome"])
        except (TypeError, KeyError) as error:
            raise UserError(f"{path}: no outcome of a cell ({error}); remove it") from None


_ARMS = ["clean", "random_noise", "uc"]


def sweep_cells(sweep: SweepSpec, *, download: bool = False) -> list[Cell]:
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


def _cells_of(sweep: SweepSpec, images: SweepDataset, seed: int, download: bool) -> Iterator[Cell]:
    """The cells of one data set and seed."""
    for scope in sweep.scopes:
        base = _base(sweep, images, seed, scope)
        data = prepare_dataset(base.data, download=download)
        sizes = sweep.batches.sizes(base.full_batch(len(data.train)))
        for budget, rule, size in product(sweep.budgets, sweep.lr_rules, sizes):
            varied = {
                "batch": base.batch.model_copy(update={"effective": size}),
                "budget": base.budget.model_copy(update={"kind": budget}),
                "optimizer": base.optimizer.model_copy(update={"lr_rule": rule}),
            }
            yield Cell(_placed(base.model_copy(update=varied), data, sweep.output), data)


def _base(sweep: SweepSpec, images: SweepDataset, seed: int, scope: str) -> Config:
    """What the cells of one data set, seed and scope have in common."""
    defaults = {
        "batch": {"extend": "views"},
        "evaluation": {"arms": _ARMS, "fractions": [1.0], "seeds": [seed]},
    }
    own = {"seed": seed, "batch": {"scope": scope}}
    settings = (defaults, sweep.settings, images.settings, own)
    return load_config(images.preset, images.config, settings=settings)


def _placed(config: Config, data: DataSet, output: Path) -> Config:
    """`config` with a folder named after all that decides what the cell comes to."""
    later = config.model_dump(mode="json", include={"target", "evaluation"})
    key = digest([config.answer(), later, data.fingerprint])
    name = (
        f"{config.data.title}-b{config.batch.effective}-s{config.seed}-{config.budget.kind}-{key}"
    )
    return config.model_copy(update={"output": output / "cells" / name})
