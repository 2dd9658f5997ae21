"""The specification of a sweep: the values to vary, and the folder of the results."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from bigbatch_ue.config.load import load_config, read_settings, resolve
from bigbatch_ue.config.schema import Config
from bigbatch_ue.config.section import Positive, Section, SettingsOf, UserPath
from bigbatch_ue.launching.engines import LaunchedEngine
from bigbatch_ue.runtime.errors import UserError

_ARMS = ["clean", "random_noise", "uc"]
_VARIED = {
    "output": "output",
    "seed": "seeds",
    "batch.effective": "batches",
    "batch.scope": "scopes",
    "budget.kind": "budgets",
    "optimizer.lr_rule": "lr_rules",
}


def _valid_batch(given: Any) -> Any:
    if given == "full" or (type(given) is int and given > 0):
        return given
    if given == "auto":
        raise ValueError("batches: 'auto' has no place on a curve; use it with `train`")
    raise ValueError(f"batches: {given!r} is neither a positive number of images nor 'full'")


BatchSize = Annotated[int | Literal["full"], BeforeValidator(_valid_batch)]


class BatchGrid(Section):
    """Effective batches: a list, or a geometric grid from `from` to `to`, by `factor`."""

    listed: tuple[BatchSize, ...] = Field(
        (),
        description="Effective batches, in images, one by one; `full` is a whole cluster, or the "
        "whole set at scope `all`. A bare list is the same as `listed`.",
    )
    start: Positive | None = Field(
        None, alias="from", description="Smallest effective batch of a grid, in images."
    )
    to: BatchSize = Field(
        "full", description="Largest effective batch of a grid, in images; always included."
    )
    factor: Annotated[float, Field(gt=1, allow_inf_nan=False)] = Field(
        2, description="Ratio of neighbouring batches of a grid."
    )

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
        """Return the batches in ascending order, without duplicates; `full` is a whole cluster."""
        if self.start is None:
            return sorted({full if isinstance(size, str) else size for size in self.listed})
        last = full if isinstance(self.to, str) else self.to
        count = math.floor(math.log(max(last / self.start, 1), self.factor) + 1e-9)
        grid = {round(self.start * self.factor**i) for i in range(count + 1)}
        return sorted(size for size in {*grid, last} if size <= last)


Seed = Annotated[int, Field(ge=0, lt=2**32)]


def _counted(given: Any) -> Any:
    """Turn a number of seeds into the seeds 0, 1, ...; leave lists."""
    if type(given) is int and given > 0:
        return tuple(range(given))
    if isinstance(given, list | tuple):
        return given
    raise PydanticCustomError("seeds", "must be a positive number of seeds, or a list of them")


SeedList = Annotated[
    tuple[Seed, ...],
    Field(min_length=1),
    BeforeValidator(_counted, json_schema_input_type=Positive | tuple[Seed, ...]),
]
"""Seeds; users may give their number instead, counted from 0."""


class Seeds(Section):
    """Seeds of the runs and of their targets: a list, or `run` and `target`."""

    run: SeedList = Field(
        (0, 1, 2, 3, 4),
        description="Seeds of surrogate, clusters and perturbations: a list, or their number, "
        "counted from 0. A bare list is the same as `run`.",
    )
    target: SeedList | None = Field(
        None,
        description="Seeds of the targets, as `run`; every run is evaluated with each. `null`: one "
        "target for each run, with the seed of the run.",
    )

    @model_validator(mode="before")
    @classmethod
    def _list(cls, given: Any) -> Any:
        return {"run": given} if isinstance(given, list | tuple) else given

    @model_validator(mode="after")
    def _targets_differ(self) -> Self:
        if self.target and len(set(self.target)) < len(self.target):
            raise ValueError("seeds.target: contains a value twice; remove one of them")
        return self

    def targets_of(self, run: int) -> tuple[int, ...]:
        """Return the seeds of the targets of a run, given the run's seed."""
        return (run,) if self.target is None else self.target


class SweepDataset(Section):
    """One data set of a sweep: a preset or a file, and further settings."""

    preset: str | None = Field(
        None, description="Name of a preset; a bare name is the same as `preset`."
    )
    config: UserPath | None = Field(
        None, description="YAML file of settings; not together with `preset`."
    )
    settings: dict[str, Any] = Field(
        {}, description="Settings of this data set, nested as in a file; they win over `settings`."
    )

    @model_validator(mode="before")
    @classmethod
    def _name(cls, given: Any) -> Any:
        return {"preset": given} if isinstance(given, str) else given


class SweepSpec(Section):
    """The specification of a sweep; every combination of the varied values is a cell."""

    output: UserPath = Field(Path("runs/sweep"), description="Folder of the sweep.")
    datasets: tuple[SweepDataset, ...] = Field(
        min_length=1, description="Data sets: names of presets, or mappings."
    )
    batches: BatchGrid = Field(description="Effective batches: a list, or a geometric grid.")
    seeds: Seeds = Field(
        Seeds(), description="Seeds of the runs and of their targets: a list, or a mapping."
    )
    budgets: tuple[Literal["epochs", "steps"], ...] = Field(
        ("epochs", "steps"), min_length=1, description="Values of `budget.kind`."
    )
    lr_rules: tuple[Literal["none", "sqrt", "linear"], ...] = Field(
        ("none",), min_length=1, description="Values of `optimizer.lr_rule`."
    )
    scopes: tuple[Literal["cluster", "all"], ...] = Field(
        ("cluster",), min_length=1, description="Values of `batch.scope`."
    )
    strength: Literal["given", "midway"] = Field(
        "given",
        description="Strength of the perturbations: `given` by `generator.eps`; or for each data "
        "set the one at which a pilot finds protection `midway` between clean images and guessing.",
    )
    settings: Annotated[dict[str, Any], SettingsOf(Config)] = Field(
        {}, description="Settings of every cell, nested as in a file; not those that are varied."
    )
    protect: bool = Field(
        True, description="Whether to write the protected images of each cell, at training size."
    )
    launcher: LaunchedEngine | UserPath | None = Field(
        None,
        description="Engine on whose ranks each cell trains, one for each GPU, or two without a "
        "GPU; or an Accelerate YAML file, which gives their number.",
    )

    @model_validator(mode="after")
    def _settings_leave_the_varied_alone(self) -> Self:
        varied = dict(_VARIED)
        if self.seeds.target is not None:
            varied["evaluation.seeds"] = "seeds.target"
        if self.strength == "midway":
            varied["generator.eps"] = "strength"
        for settings in (self.settings, *(images.settings for images in self.datasets)):
            for key, own in varied.items():
                section, _, name = key.rpartition(".")
                within = settings.get(section) if section else settings
                if isinstance(within, dict) and name in within:
                    raise ValueError(f"settings: {key} is set by the sweep; use `{own}`")
        return self


def load_sweep(file: Path, overrides: Sequence[str] = ()) -> SweepSpec:
    """Read a sweep's YAML file.

    Raises:
        UserError: an unreadable file, an unknown key or an invalid value.
    """
    return resolve(SweepSpec, read_settings(file), overrides, file)


def base_config(sweep: SweepSpec, dataset: SweepDataset, seed: int, scope: str) -> Config:
    """Load the configuration that the cells of one data set, seed and scope have in common.

    Raises:
        UserError: an invalid setting, or one that fixes what the sweep varies.
    """
    defaults = {
        "batch": {"extend": "views"},
        "evaluation": {"arms": _ARMS, "fractions": [1.0], "seeds": sweep.seeds.targets_of(seed)},
    }
    own = {"seed": seed, "batch": {"scope": scope}}
    settings = (defaults, sweep.settings, dataset.settings, own)
    config = load_config(dataset.preset, dataset.config, settings=settings)
    if isinstance(config.batch.schedule, tuple):
        raise UserError(
            "batch.schedule: a list fixes the batches, which the sweep varies; use "
            "{ramp_from: B, ramp_steps: steps}, which ends with each of them"
        )
    return config
