"""The sections of the configuration."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationInfo,
    field_validator,
    model_validator,
)

from bigbatch_ue.config.names import ArmName, Countermeasure
from bigbatch_ue.runtime.errors import CONTROL_CHARACTERS

LABELLINGS = r"^(own|map:.+|random:[1-9]\d{0,8}|prototypes:[1-9]\d{0,8})$"
Positive = Annotated[int, Field(ge=1, lt=2**31)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Section(BaseModel):
    """A part of the configuration: immutable, and a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, given: Any, info: ValidationInfo) -> Any:
        if isinstance(given, str) and CONTROL_CHARACTERS.search(given):
            raise ValueError(f"{info.field_name}={given!r}: holds a character that is no text")
        return given


class DataConfig(Section):
    """Which images, at which size, and where data files are kept."""

    name: str = Field("digits", description="a name from `bigbatch-ue datasets`")
    size: Annotated[int, Field(ge=1, le=4096)] = Field(
        28, description="height and width of the training images, pixels"
    )
    limit: Positive | None = Field(None, description="use only the first this many train images")
    root: Path = Field(Path("data"), description="downloads and decoded images are kept here")

    @property
    def title(self) -> str:
        """The name of the data set without its place: `npz:mine/cells.npz` is `cells`."""
        return Path(self.name.partition(":")[2] or self.name).stem


class TrainingRecipe(Section):
    """How a network is trained: SGD with Nesterov momentum, or AdamW, at a one-cycle rate."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    epochs: Positive = 20
    batch: Positive = 128
    lr: Rate = 0.1
    weight_decay: NonNegative = 5e-4


class SurrogateConfig(Section):
    """The frozen network whose features the perturbations mislead."""

    model: str = Field("resnet50", description="any timm model name")
    args: dict[str, JsonValue] = Field({}, description="extra arguments for timm.create_model")
    weights: str = Field("pretrained", pattern=r"^(pretrained|fit|random|file:.+)$")
    stem: Literal["auto", "small", "standard"] = "auto"
    fit: TrainingRecipe = TrainingRecipe()


class ClustersConfig(Section):
    """k-means on the surrogate's features, and each cluster's target."""

    count: Annotated[int, Field(ge=2, le=10_000)] = Field(
        10, description="p, the number of clusters"
    )
    n_init: Positive = 10
    minibatch_above: Positive = Field(50_000, description="more images: MiniBatchKMeans")
    target_map: Literal["derangement", "shift"] = "derangement"


class GeneratorConfig(Section):
    """The bank of p ResNet generators and the bound of its perturbations."""

    width: Annotated[int, Field(ge=1, le=1024)] = 64
    eps: Annotated[float, Field(gt=0, le=1)] = 16 / 255
    bound: Literal["tanh", "clamp"] = "tanh"


class ObjectiveConfig(Section):
    """Distance from a perturbed image's feature to its target centre."""

    name: Literal["kl", "cosine", "cross_entropy"] = "kl"
    temperature: Rate = 1.0


class AugmentConfig(Section):
    """Random crop of the zero-padded image, random flip, and where the perturbation goes on."""

    pad: Annotated[int, Field(ge=0)] = Field(0, description="pixels of padding, crop offset")
    flip: bool = False
    perturb: Literal["before", "after"] = "before"


class BatchConfig(Section):
    """The effective batch of one generator, and how it may be cut."""

    effective: Annotated[int, Field(ge=1, le=2**24)] = Field(
        256, description="images in one step of one generator"
    )
    micro: Literal["auto"] | Positive = Field(
        "auto",
        description="most surrogate images in one pass on one rank; auto: the largest that fits",
    )
    scope: Literal["cluster", "all"] = "cluster"
    extend: Literal["cap", "views"] = "cap"
    accumulation: Literal["delta", "engine"] = "delta"


class BudgetConfig(Section):
    """How long the bank is trained."""

    kind: Literal["epochs", "steps"] = "epochs"
    epochs: Positive = 50
    steps: Positive = 60


class OptimizerConfig(Section):
    """Optimizer, and its learning rate as a function of the step and the batch."""

    name: Literal["adam", "adamw", "sgd", "lars", "lamb"] = "adam"
    lr: Rate = 1e-4
    min_lr: NonNegative = 1e-6
    weight_decay: NonNegative = 5e-4
    schedule: Literal["cosine", "constant"] = "cosine"
    lr_rule: Literal["none", "sqrt", "linear"] = "none"
    reference_batch: Positive = Field(256, description="batch at which the rule leaves lr alone")
    nonfinite: Literal["stop", "skip"] = Field(
        "stop", description="a step whose loss or gradient is NaN or infinite; skip: go on without"
    )


class ComputeConfig(Section):
    """How the frozen surrogate is computed; no choice changes the answer beyond rounding."""

    precision: Literal["auto", "float32", "bf16"] = Field(
        "auto", description="of its layers; auto: bf16 where the hardware multiplies it"
    )
    fold: bool = Field(True, description="fold batch norm into the convolutions")
    channels_last: bool = True
    compile: Literal["auto", "off", "on", "graphs"] = Field(
        "auto", description="torch.compile, or that with CUDA graphs; auto: on, on a GPU"
    )
    tf32: bool = Field(True, description="on a GPU, for what stays float32")
    checkpointing: bool = Field(False, description="compute activations twice to save memory")
    cluster_groups: Positive = Field(
        1, description="so many groups of ranks, each with clusters of its own"
    )
    images: Literal["auto", "device", "host"] = Field(
        "auto", description="where they are kept; auto: on a GPU if they take half its free memory"
    )


class NoiseConfig(Section):
    """How often the gradient noise scale is measured in the space of the parameters."""

    every: Literal["auto"] | Annotated[int, Field(ge=0)] = Field(
        "auto", description="optimizer steps; 0: never; auto: at a hundredth of the time"
    )


class CheckpointConfig(Section):
    """When the training state is written, and how many states are kept."""

    every: Positive = Field(50, description="optimizer steps between checkpoints")
    minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        10, description="at most so long between checkpoints"
    )
    keep: Positive = 2


class TargetConfig(Section):
    """The network a scraper would train; one recipe for every arm."""

    model: str = Field("resnet18", description="any timm model name")
    args: dict[str, JsonValue] = Field({}, description="extra arguments for timm.create_model")
    weights: str = Field(
        "scratch",
        pattern=r"^(scratch|pretrained|simclr|file:.+)$",
        description="simclr: a frozen encoder trained on the arm's images, and a linear probe",
    )
    fit: TrainingRecipe = TrainingRecipe(epochs=30)


class AdversarialConfig(Section):
    """Adversarial training by projected gradient descent within L-inf `eps`."""

    eps: Annotated[float, Field(gt=0, le=1)] = 8 / 255
    steps: Positive = 3


class EvaluationConfig(Section):
    """Which targets are trained to judge the perturbations."""

    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = Field((0, 1, 2), min_length=1)
    arms: tuple[ArmName, ...] = tuple(name for name in ArmName if name != ArmName.PROTECTED)
    fractions: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (0.8, 1.0), description="shares of the train images that are protected"
    )
    countermeasures: tuple[Countermeasure, ...] = Field((), description="a list, or `all`")
    countered: tuple[ArmName, ...] = Field(
        (ArmName.CLEAN, ArmName.UC), description="arms under countermeasures and other labels"
    )
    labels: tuple[Annotated[str, Field(pattern=LABELLINGS)], ...] = Field(
        ("own",), description="own, map:FILE, random:M, prototypes:M"
    )
    adversarial: AdversarialConfig = AdversarialConfig()
    share: Literal["arms", "batches"] = Field(
        "arms", description="ranks train arms of their own, or each batch together (DDP)"
    )

    @field_validator("countermeasures", mode="before")
    @classmethod
    def _all(cls, given: Any) -> Any:
        return tuple(Countermeasure) if given == "all" else given

    @model_validator(mode="after")
    def _once(self) -> Self:
        for key in ("seeds", "arms", "fractions", "countermeasures", "countered", "labels"):
            values = getattr(self, key)
            if len(set(values)) < len(values):
                raise ValueError(f"evaluation.{key}: names something twice")
        if ArmName.UNPROTECTED in self.countered:
            raise ValueError("evaluation.countered: takes whole sets, not the unprotected part")
        return self
