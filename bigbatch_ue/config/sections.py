"""The sections of the configuration that decide a run."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, JsonValue, model_validator

from bigbatch_ue.config.names import Grouping, TargetMap
from bigbatch_ue.config.section import (
    Bound,
    InputSize,
    NonNegative,
    Positive,
    Rate,
    Section,
    UserPath,
)
from bigbatch_ue.files.paths import short_names


class TakeConfig(Section):
    """What is taken from a source that may have more: the splits, and the columns or members."""

    train: str = Field(
        "train",
        description="Name of the split with the train images, for `hf:`; a word in the names of "
        "the files of that split, for `parquet:` and `wds:`.",
    )
    test: str = Field(
        "test", description="The same for the test images, such as `validation` or `val`."
    )
    image: str | None = Field(
        None,
        description="Column of the images, or for `wds:` the suffix of their members, such as "
        "`jpg`; `null` if there is only one that can be meant.",
    )
    label: str | None = Field(
        None,
        description="Column of the labels, or for `wds:` the suffix of their members or a key of "
        "the `json` member; `null` if there is only one that can be meant, and for `wds:` `cls`, "
        "or else the key `label`.",
    )
    config: str | None = Field(
        None, description="Configuration of a data set of `hf:`; `null` is its default."
    )


class DataConfig(Section):
    """The images, their size, and the folder of data files."""

    name: str = Field(
        "digits",
        description="Data set: a name from `bigbatch-ue datasets`, or your own images as "
        "`folder:PATH`, `npz:PATH`, `parquet:PATH`, `hf:NAME` or `wds:PATTERN`.",
    )
    size: Annotated[int, Field(ge=1, le=4096)] = Field(
        28, description="Height and width of the training images, in pixels; at least 8."
    )
    limit: Positive | None = Field(
        None,
        description="Number of training images to use: a random share, the same of each class, and "
        "the same in every run; `null` uses all.",
    )
    root: UserPath = Field(
        Path("data"),
        description="Folder of downloads, decoded images and caches that runs share.",
    )

    take: TakeConfig = TakeConfig()

    @property
    def has_name(self) -> bool:
        """Whether the name says which images they are, rather than where they are."""
        return ":" not in self.name

    strict: bool = Field(
        False,
        description="Whether a file that is left out, converted, or taken only in part stops the "
        "program; else such files are counted, and the first is named. An image that cannot be "
        "read always stops it.",
    )
    title: str | None = Field(
        None,
        pattern=r"^[^/\x00-\x1f]+$",
        description="Name of the data set in tables, plots and pages; by default its name, or the "
        "last part of its place. It changes no result.",
    )

    @property
    def shown_as(self) -> str:
        """The name of the data set without its place: `npz:mine/cells.npz` is `cells`."""
        return self.title or short_names([self.name])[0]


class TrainingRecipe(Section):
    """The training of a network: SGD with Nesterov momentum 0.9, or AdamW, at a one-cycle rate."""

    optimizer: Literal["sgd", "adamw"] = Field(
        "sgd", description="Optimizer: SGD with Nesterov momentum 0.9, or AdamW."
    )
    epochs: Positive = Field(20, description="Number of passes over the training images.")
    batch: Positive = Field(
        128, description="Images in one optimizer step; not the effective batch of the generators."
    )
    lr: Rate = Field(0.1, description="Peak learning rate; it warms up linearly, then decays to 0.")
    weight_decay: NonNegative = Field(5e-4, description="Weight decay coefficient.")


class SurrogateConfig(Section):
    """The frozen network whose features are clustered and misled."""

    added_later: ClassVar[dict[str, Any]] = {"size": "data"}
    model: str = Field("resnet50", description="Name of any timm model.")
    args: dict[str, JsonValue] = Field(
        {}, description="Further arguments of `timm.create_model`, such as `channels`."
    )
    weights: str = Field(
        "pretrained",
        pattern=r"^(pretrained|package|fit|random|file:.+)$",
        description="Source of the weights: `pretrained` from timm's hub, `package` takes those of "
        "ImageNet that the extra `pretrained` installs (`tf_efficientnet_lite0` alone), `fit` "
        "trains on the images at hand, `random` is a control, and `file:PATH` reads safetensors or "
        "a state dict.",
    )
    size: InputSize = Field(
        "data",
        description="Height and width, in pixels, to which images are resized before the surrogate "
        "sees them: those of the `data`, or the network's `own`, at which it was pretrained. An "
        "ImageNet network at 64 pixels can hardly tell flowers apart.",
    )
    stem: Literal["auto", "small", "standard"] = Field(
        "auto",
        description="First layers: `small` keeps the resolution of the image, `standard` reduces "
        "it; `auto` is `small` below 64 pixels.",
    )
    fit: TrainingRecipe = Field(
        TrainingRecipe(), description="Training of the surrogate, with `weights: fit`."
    )


class ClustersConfig(Section):
    """The groups of images that share a perturbation, and the target of each group."""

    added_later: ClassVar[dict[str, Any]] = {"by": "features"}
    by: Grouping = Field(
        Grouping.AUTO,
        description="How images are grouped: `labels` makes each class a cluster, `nested` is "
        "k-means inside each class, `features` is k-means over all images, blind to labels, as in "
        "the UC paper. `auto` is `features` if `count` is a number or there is a single class, "
        "else `labels`.",
    )
    count: Literal["auto"] | Annotated[int, Field(ge=2, le=10_000)] = Field(
        "auto",
        description="Number of clusters, p; also the number of generators and perturbations. "
        "`auto` is 10 with `by: features`, else what the classes give.",
    )
    per_class: Positive = Field(
        2,
        description="Number of clusters in each class, with `by: nested`; a class of fewer images "
        "has as many clusters as images.",
    )
    n_init: Positive = Field(
        10, description="Number of k-means restarts from other initial centres; the best is kept."
    )
    minibatch_above: Positive = Field(
        50_000,
        description="Number of images above which MiniBatchKMeans replaces KMeans, to save memory "
        "and time.",
    )
    target_map: TargetMap = Field(
        TargetMap.DERANGEMENT,
        description="Target cluster of each cluster: `derangement` is a seeded random permutation "
        "without a fixed point, in other classes with `by: nested`; `shift` is the next cluster, "
        "as in the public UC code; `farthest` has the largest distances in all.",
    )

    @model_validator(mode="before")
    @classmethod
    def _count_features(cls, content: Any) -> Any:
        """Take a number of clusters alone for that of k-means, as before there was `by`."""
        if isinstance(content, dict) and content.get("count", "auto") != "auto":
            by = content.get("by", Grouping.AUTO)
            return {**content, "by": Grouping.FEATURES if by == Grouping.AUTO else by}
        return content

    def answer(self) -> dict[str, Any]:
        """Return the settings that decide a result; `per_class` only where it does."""
        content = super().answer()
        if self.by != Grouping.NESTED:
            del content["per_class"]
        return content

    @property
    def generators(self) -> int:
        """Number of clusters, p, after `count` has been resolved."""
        assert self.count != "auto", "resolve_clusters comes first"
        return self.count


class GeneratorConfig(Section):
    """The bank of p ResNet generators, and the bound of their perturbations."""

    width: Annotated[int, Field(ge=1, le=1024)] = Field(
        64, description="Channels of a generator's first layer; 7.8 million parameters at 64."
    )
    eps: Bound = Field(
        16 / 255,
        description="Largest change of any pixel value (L-inf), where white is 1: a number, a "
        "fraction such as 8/255, or `low` (4/255), `medium` (8/255) or `high` (16/255, default).",
    )
    bound: Literal["tanh", "clamp"] = Field(
        "tanh",
        description="How perturbations are kept within `eps`: eps x tanh, or `clamp` as in the "
        "public UC code, which leaves pixels outside the bound without a gradient.",
    )


class ObjectiveConfig(Section):
    """The distance between the feature of a perturbed image and its target centre."""

    name: Literal["kl", "cosine", "cross_entropy"] = Field(
        "kl",
        description="Distance: KL divergence of softmaxed features (UC paper), cosine distance, or "
        "cross-entropy over the similarities to all target centres.",
    )
    temperature: Rate = Field(
        1.0, description="Temperature T of the softmax of `kl` and `cross_entropy`."
    )


class AugmentConfig(Section):
    """Random views of the training images: a crop of the zero-padded image, and a flip."""

    added_later: ClassVar[dict[str, Any]] = {"robust": False}
    pad: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Zero padding on each side before the random crop, in pixels; less than "
        "`data.size`.",
    )
    flip: bool = Field(False, description="Whether to flip half of the views from left to right.")
    perturb: Literal["before", "after"] = Field(
        "before", description="Whether the perturbation is added before or after crop and flip."
    )
    robust: bool = Field(
        False,
        description="Whether each perturbed view passes two random distortions that scrapers apply "
        "(JPEG, blur, grey, bit depth, colour, geometry), so that the perturbations withstand "
        "them.",
    )


class BudgetConfig(Section):
    """The length of the training of the generators."""

    kind: Literal["epochs", "steps"] = Field(
        "epochs",
        description="What is equal between batch sizes: how often each image is seen (`epochs`), "
        "or the number of optimizer steps (`steps`).",
    )
    epochs: Positive = Field(
        50, description="Number of passes over the images of a generator, for `kind: epochs`."
    )
    steps: Positive = Field(60, description="Number of optimizer steps, for `kind: steps`.")


class OptimizerConfig(Section):
    """The optimizer of the generators, and its learning rate by step and batch."""

    name: Literal["adam", "adamw", "sgd", "lars", "lamb"] = Field(
        "adam", description="Optimizer; `lars` and `lamb` need one process or DDP."
    )
    lr: Rate = Field(1e-4, description="Peak learning rate, before `lr_rule` scales it.")
    min_lr: NonNegative = Field(
        1e-6, description="Learning rate at the end of the cosine schedule; at most `lr`."
    )
    weight_decay: NonNegative = Field(5e-4, description="Weight decay coefficient.")
    schedule: Literal["cosine", "constant"] = Field(
        "cosine",
        description="Learning rate over the steps: half a cosine down to `min_lr`, or constant.",
    )
    lr_rule: Literal["none", "sqrt", "linear"] = Field(
        "none",
        description="Scaling of `lr` with the effective batch B: `sqrt` multiplies it by "
        "sqrt(B / `reference_batch`), `linear` by B / `reference_batch`.",
    )
    reference_batch: Positive = Field(
        256, description="Effective batch, in images, at which `lr_rule` leaves `lr` unchanged."
    )
    nonfinite: Literal["stop", "skip"] = Field(
        "stop",
        description="On a NaN or infinite loss or gradient: stop with an error, or skip the step. "
        "`skip` needs `batch.accumulation: delta`.",
    )


class ComputeConfig(Section):
    """The computation of the frozen surrogate; no choice changes the result beyond rounding."""

    precision: Literal["auto", "float32", "bf16"] = Field(
        "auto",
        description="Precision of the layers of the surrogate; `auto` is bf16 where the hardware "
        "multiplies it.",
    )
    fold: bool = Field(True, description="Whether to fold batch norm into the convolutions.")
    channels_last: bool = Field(True, description="Whether to use the channels-last memory layout.")
    compile: Literal["auto", "off", "on", "graphs"] = Field(
        "auto",
        description="Whether to use `torch.compile`; `graphs` adds CUDA graphs. `auto` is `on` on "
        "a GPU, `off` elsewhere.",
    )
    tf32: bool = Field(
        True,
        description="Whether a GPU multiplies as TF32 what stays float32, generators included.",
    )
    checkpointing: bool = Field(
        False, description="Whether to compute activations twice, to save memory."
    )
    cluster_groups: Positive = Field(
        1,
        description="Number of rank groups; each trains its own part of the clusters, without "
        "communication between groups.",
    )
    images: Literal["auto", "device", "host"] = Field(
        "auto",
        description="Where the training images are kept: in `device` memory, or on the `host`, "
        "read ahead. `auto` is `device` on a GPU if they take at most half of its free memory.",
    )


class NoiseConfig(Section):
    """The measurement of the gradient noise scale in the space of the parameters."""

    every: Literal["auto"] | Annotated[int, Field(ge=0)] = Field(
        "auto",
        description="Optimizer steps between measurements; 0 is never, `auto` spends at most a "
        "hundredth of the time.",
    )


class CheckpointConfig(Section):
    """The times of checkpoints, and the number that is kept."""

    every: Positive = Field(50, description="Optimizer steps between checkpoints.")
    minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        10, description="Maximum time between checkpoints, in minutes."
    )
    keep: Positive = Field(2, description="Number of checkpoints to keep, the newest ones.")
