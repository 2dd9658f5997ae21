"""The one typed configuration of a run; `config.load` reads it."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from bigbatch_ue.config.batch_section import BatchConfig
from bigbatch_ue.config.evaluation_sections import EvaluationConfig, TargetConfig
from bigbatch_ue.config.names import TrackerName
from bigbatch_ue.config.section import Section, UserPath
from bigbatch_ue.config.sections import (
    AugmentConfig,
    BudgetConfig,
    CheckpointConfig,
    ClustersConfig,
    ComputeConfig,
    DataConfig,
    GeneratorConfig,
    NoiseConfig,
    ObjectiveConfig,
    OptimizerConfig,
    SurrogateConfig,
)
from bigbatch_ue.files.atomic import atomic_file
from bigbatch_ue.files.paths import hide_home
from bigbatch_ue.files.yaml_files import format_yaml

_NOT_IN_ANSWER = {"output", "tracking", "compute", "noise", "checkpoint", "target", "evaluation"}
_NOT_SHOWN = {"output", "tracking", "checkpoint", "target", "evaluation"}


class Config(Section):
    """The settings of a run, its evaluation included."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        0, description="Seed of the surrogate, the clusters, the generators and the batches."
    )
    output: UserPath | None = Field(
        None, description="Folder of the run; by default `runs/<data>-b<B>-s<seed>`."
    )
    tracking: tuple[TrackerName, ...] = Field(
        (TrackerName.TENSORBOARD,),
        description="Where scalars, pictures and settings of runs and evaluations go, besides the "
        "run's own files; they change no result. `wandb` and `mlflow` come with the extra "
        "`trackers`, `trackio` with `pip install trackio`; without a variable that says otherwise, "
        "all stay in the folder of the run or sweep.",
    )
    data: DataConfig = DataConfig()
    surrogate: SurrogateConfig = SurrogateConfig()
    clusters: ClustersConfig = ClustersConfig()
    generator: GeneratorConfig = GeneratorConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    augment: AugmentConfig = AugmentConfig()
    batch: BatchConfig = BatchConfig()
    budget: BudgetConfig = BudgetConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    compute: ComputeConfig = ComputeConfig()
    noise: NoiseConfig = NoiseConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    target: TargetConfig = TargetConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        if self.optimizer.min_lr > self.optimizer.lr:
            raise ValueError(
                f"optimizer.min_lr={self.optimizer.min_lr}: exceeds "
                f"optimizer.lr={self.optimizer.lr}; lower it"
            )
        if self.data.size < 8:
            raise ValueError(
                f"data.size={self.data.size}: too small for the generators; use at least 8 pixels"
            )
        if self.optimizer.nonfinite == "skip" and self.batch.accumulation == "engine":
            raise ValueError(
                "optimizer.nonfinite=skip: needs batch.accumulation=delta; change one of them"
            )
        if self.augment.pad >= self.data.size:
            raise ValueError(
                f"augment.pad={self.augment.pad}: reaches over the whole image; "
                f"use less than data.size={self.data.size}"
            )
        if len(set(self.tracking)) < len(self.tracking):
            raise ValueError("tracking: contains a value twice; remove one of them")
        return self

    @property
    def run_folder(self) -> Path:
        """The folder of the run: `output`, or a name made of data set, batch and seed."""
        if self.output is not None:
            return self.output
        return Path("runs") / f"{self.data.shown_as}-b{self.batch.in_words}-s{self.seed}"

    @property
    def axes(self) -> dict[str, Any]:
        """The settings that a sweep varies, by the names of its results."""
        return {
            "dataset": self.data.shown_as,
            "effective_batch": self.batch.effective,
            "seed": self.seed,
            "budget": self.budget.kind,
            "lr_rule": self.optimizer.lr_rule,
            "scope": self.batch.scope,
        }

    @property
    def shown(self) -> dict[str, Any]:
        """The settings of the run by dotted name, as others may see them: files without folders."""
        content = self.model_dump(mode="json", exclude=_NOT_SHOWN)
        content["data"] = {
            "name": self.data.shown_as,
            "size": self.data.size,
            "limit": self.data.limit,
        }
        kind, colon, place = self.surrogate.weights.partition(":")
        content["surrogate"]["weights"] = f"{kind}{colon}{Path(place).name}"
        return dict(_flat(content))

    def full_batch(self, images: int) -> int:
        """Return the images of a generator, of `images` in all: a mean cluster, or the whole set.

        The mean is rounded up; the whole set belongs to each generator at scope `all`.
        """
        return images if self.batch.scope == "all" else math.ceil(images / self.clusters.generators)

    def answer(self, *, with_place: bool = False) -> dict[str, Any]:
        """Return the settings that decide the result, the content of a run's digest.

        Decomposition, later stages and places are left out: a user's images are known by what is
        in them, to which belongs what is taken of them (`data.take`). `with_place` keeps their
        place, as the digests of earlier versions did.
        """
        content = self.model_dump(mode="json", exclude=_NOT_IN_ANSWER)
        content |= {
            name: getattr(self, name).answer()
            for name in ("surrogate", "clusters", "augment", "batch")
        }
        if not (with_place or self.data.has_name):
            content["data"]["name"] = None
        for key in ("root", "title", "strict", "take"):
            del content["data"][key]
        del content["batch"]["micro"], content["batch"]["accumulation"]
        del content["optimizer"]["nonfinite"]
        return content

    def save(self, path: Path) -> None:
        """Write the resolved configuration as YAML, atomically."""
        with atomic_file(path) as temporary:
            temporary.write_text(format_yaml(self.model_dump(mode="json")))


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings by dotted name, the home folder in a text as `~`."""
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", hide_home(value) if isinstance(value, str) else value
