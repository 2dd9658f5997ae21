"""The cells of a sweep: one run each, its folder and its outcome."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

from bigbatch_ue.clustering.grouping import resolve_clusters
from bigbatch_ue.config.load import load_config
from bigbatch_ue.config.schema import Config
from bigbatch_ue.data.decoded import DataSet, prepare_dataset
from bigbatch_ue.files.formats import digest, read_json
from bigbatch_ue.runs.folder import RunFiles
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.sweeps.spec import SweepDataset, SweepSpec


@dataclass(frozen=True)
class Outcome:
    """The outcome of a cell.

    Attributes:
        state: `finished` if all results exist.
        reason: why the cell failed, in one line; empty if it did not.
        seconds: duration of the cell.
    """

    state: Literal["finished", "failed"]
    reason: str
    seconds: float

    @property
    def finished(self) -> bool:
        """Whether all results exist."""
        return self.state == "finished"


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: its configuration, with the folder as `output`, and its data."""

    config: Config
    data: DataSet

    @property
    def files(self) -> RunFiles:
        """Files in the run's folder."""
        return RunFiles(self.config.run_folder)

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.files.folder.name

    @property
    def axes(self) -> dict[str, Any]:
        """Values that the sweep varies, and the batch of a whole cluster (`full`)."""
        return {**self.config.axes, "full": self.config.full_batch(len(self.data.train))}

    def outcome(self) -> Outcome | None:
        """Read the outcome, or return None if the cell has not been run.

        Raises:
            UserError: the file is damaged, or of another kind.
        """
        path = self.files.outcome
        if not path.exists():
            return None
        try:
            return Outcome(**read_json(path, dict)["outcome"])
        except (TypeError, KeyError) as error:
            raise UserError(
                f"{path}: invalid outcome of a cell ({error}); delete it to run the cell again"
            ) from None


_ARMS = ["clean", "random_noise", "uc"]


def sweep_cells(sweep: SweepSpec, *, download: bool = False) -> list[Cell]:
    """List all cells, seed by seed, so that a sweep that is stopped early has complete curves.

    Raises:
        UserError: an invalid setting, or a data set that is not available.
    """
    cells: dict[str, Cell] = {}
    for seed in sweep.seeds:
        for dataset in sweep.datasets:
            for cell in _cells_of(sweep, dataset, seed, download):
                cells.setdefault(cell.name, cell)
    return list(cells.values())


def _cells_of(sweep: SweepSpec, dataset: SweepDataset, seed: int, download: bool) -> Iterator[Cell]:
    """Make the cells of one data set and seed."""
    for scope in sweep.scopes:
        base = base_config(sweep, dataset, seed, scope)
        data = prepare_dataset(base.data, download=download)
        base = resolve_clusters(base, data.train.labels)
        sizes = sweep.batches.sizes(base.full_batch(len(data.train)))
        for budget, rule, size in product(sweep.budgets, sweep.lr_rules, sizes):
            varied = {
                "batch": base.batch.model_copy(update={"effective": size}),
                "budget": base.budget.model_copy(update={"kind": budget}),
                "optimizer": base.optimizer.model_copy(update={"lr_rule": rule}),
            }
            yield Cell(_with_folder(base.model_copy(update=varied), data, sweep.output), data)


def base_config(sweep: SweepSpec, dataset: SweepDataset, seed: int, scope: str) -> Config:
    """Load the configuration that the cells of one data set, seed and scope have in common."""
    defaults = {
        "batch": {"extend": "views"},
        "evaluation": {"arms": _ARMS, "fractions": [1.0], "seeds": [seed]},
    }
    own = {"seed": seed, "batch": {"scope": scope}}
    settings = (defaults, sweep.settings, dataset.settings, own)
    return load_config(dataset.preset, dataset.config, settings=settings)


def _with_folder(config: Config, data: DataSet, output: Path) -> Config:
    """Give `config` a folder, named after everything that decides the outcome of the cell."""
    later = {"target": config.target.answer(), "evaluation": config.evaluation.answer()}
    key = digest([config.answer(), later, data.fingerprint])
    name = (
        f"{config.data.title}-b{config.batch.effective}-s{config.seed}-{config.budget.kind}-{key}"
    )
    return config.model_copy(update={"output": output / "cells" / name})
