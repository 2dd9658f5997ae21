"""Names that the configuration and the command line know: data sets, presets, engines, arms."""

from enum import StrEnum

MEDMNIST_2D = (
    "pathmnist",
    "chestmnist",
    "dermamnist",
    "octmnist",
    "pneumoniamnist",
    "retinamnist",
    "breastmnist",
    "bloodmnist",
    "tissuemnist",
    "organamnist",
    "organcmnist",
    "organsmnist",
)
DATASETS = ("digits", "pets", "flowers102", *(n for n in MEDMNIST_2D if n != "chestmnist"))
KIND_OF_SUFFIX = {".npz": "npz", ".parquet": "parquet", ".tar": "wds"}
"""Kind of a place of images, by the suffix of a file there."""
PARITY = "-parity"
"""Suffix of the presets with the settings of the study, blind to labels."""
PRESETS = ("small", *DATASETS, *(f"{name}{PARITY}" for name in DATASETS if name != "digits"))
KINDS = ("folder:", "npz:", "parquet:", "hf:", "wds:")
"""Beginnings of `data.name` where it says the place of images."""

OWN_IMAGES = ("small",)
"""Presets without a data set of their own."""

TARGETS = (
    "resnet18",
    "resnet50",
    "efficientnet_b1",
    "regnetx_016",
    "densenet121",
    "vit_small",
)


class TrackerName(StrEnum):
    """The tool that shows the scalars and pictures of runs."""

    TENSORBOARD = "tensorboard"
    WANDB = "wandb"
    MLFLOW = "mlflow"
    TRACKIO = "trackio"


class MeasuredPath(StrEnum):
    """What `bench` measures: a path to the gradient of an effective batch, or a target's training.

    The baseline does what the public UC code does.
    """

    DELTA = "delta"
    ENGINE = "engine"
    BASELINE = "baseline"
    TARGET = "target"


class Grouping(StrEnum):
    """The way in which images are grouped into clusters; `auto` is decided by the images."""

    AUTO = "auto"
    FEATURES = "features"
    LABELS = "labels"
    NESTED = "nested"


class TargetMap(StrEnum):
    """The choice of the cluster to whose centre each cluster is driven."""

    DERANGEMENT = "derangement"
    SHIFT = "shift"
    FARTHEST = "farthest"


class ArmName(StrEnum):
    """The kind of training set of a target network."""

    CLEAN = "clean"
    RANDOM_NOISE = "random_noise"
    CLASS_NOISE = "class_noise"
    PATTERN = "pattern"
    SHUFFLED = "shuffled"
    RANDOM_SURROGATE = "random_surrogate"
    UNPROTECTED = "unprotected"
    UC = "uc"
    PROTECTED = "protected"


class Countermeasure(StrEnum):
    """The countermeasure of a scraper against perturbations, before or during training."""

    NONE = "none"
    CUTOUT = "cutout"
    MIXUP = "mixup"
    CUTMIX = "cutmix"
    RANDAUGMENT = "randaugment"
    JPEG75 = "jpeg75"
    JPEG10 = "jpeg10"
    GREY = "grey"
    BLUR = "blur"
    BIT_DEPTH = "bit_depth"
    LOW_PASS = "low_pass"
    ADVERSARIAL = "adversarial"
    CLUSTER_AVERAGE = "cluster_average"
    PROJECTION = "projection"
