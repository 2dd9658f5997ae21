"""The cells of a sweep: one run each, its folder and its outcome."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

from bigbatch_ue.batching.plan import BatchPlan, make_plan
from bigbatch_ue.clustering.resolve import expected_sizes, resolve_clusters
from bigbatch_ue.config.schema import Config
from bigbatch_ue.data.decoded import DataSet, prepare_dataset
from bigbatch_ue.files.formats import digest, read_json
from bigbatch_ue.files.paths import short_names
from bigbatch_ue.runs.folder import RunFiles
from bigbatch_ue.runs.identity import answer, hash_weights
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.sweeps.spec import SweepDataset, SweepSpec, base_config


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
    def plan(self) -> BatchPlan:
        """The batches in one process, before the images are grouped."""
        sizes = expected_sizes(self.config.clusters, self.data.train.labels)
        return make_plan(self.config, sizes, 1)

    @property
    def axes(self) -> dict[str, Any]:
        """Values that the sweep varies, and the batch of a whole cluster (`full`).

        With a schedule, also the mean batch over all steps (`mean_batch`).
        """
        axes = {**self.config.axes, "full": self.config.full_batch(len(self.data.train))}
        if self.config.batch.schedule is not None:
            axes["mean_batch"] = self.plan.effective
        return axes

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


_CELLS = "cells"


def sweep_cells(sweep: SweepSpec, *, download: bool = False) -> list[Cell]:
    """List all cells, seed by seed, so that a sweep that is stopped early has complete curves.

    Raises:
        UserError: an invalid setting, or a data set that is not available.
    """
    cells: dict[str, Cell] = {}
    datasets = with_different_names(sweep)
    made = {_key_of(folder): folder for folder in (sweep.output / _CELLS).glob("*-*")}
    for seed in sweep.seeds.run:
        for dataset in datasets:
            for config, data in _settings_of(sweep, dataset, seed, download):
                folder = _folder_of(config, data, sweep.output, made)
                cell = Cell(config.model_copy(update={"output": folder}), data)
                cells.setdefault(cell.name, cell)
    return list(cells.values())


def _key_of(folder: Path) -> str:
    return folder.name.rpartition("-")[2]


def with_different_names(sweep: SweepSpec) -> list[SweepDataset]:
    """Return the data sets of a sweep; those that would be shown under one name get a title."""
    images = [
        base_config(sweep, each, sweep.seeds.run[0], sweep.scopes[0]).data
        for each in sweep.datasets
    ]
    places = [each.name for each in images]
    named = []
    for dataset, own, title in zip(sweep.datasets, images, short_names(places), strict=True):
        if own.title is None and title != own.shown_as:
            data = {**dataset.settings.get("data", {}), "title": title}
            settings = {**dataset.settings, "data": data}
            dataset = dataset.model_copy(update={"settings": settings})
        named.append(dataset)
    return named


def _settings_of(
    sweep: SweepSpec, dataset: SweepDataset, seed: int, download: bool
) -> Iterator[tuple[Config, DataSet]]:
    """Make the settings of each cell of one data set and seed."""
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
            yield base.model_copy(update=varied), data


def _folder_of(config: Config, data: DataSet, output: Path, made: Mapping[str, Path]) -> Path:
    """Return the folder of a cell, named after everything that decides its outcome.

    It is the one of `made` with that key, whatever the images were called, and wherever they were.
    """
    later = {"target": config.target.answer(), "evaluation": config.evaluation.answer()}
    weights = hash_weights(config.surrogate.weights)
    keys = [
        digest([answer(config, known, weights_known), later, known.fingerprint])
        for weights_known in dict.fromkeys([weights, None])
        for known in data.identities
    ]
    batch, budget = config.batch.in_words, config.budget.kind
    name = f"{config.data.shown_as}-b{batch}-s{config.seed}-{budget}-{keys[0]}"
    return next((made[key] for key in reversed(keys) if key in made), output / _CELLS / name)
