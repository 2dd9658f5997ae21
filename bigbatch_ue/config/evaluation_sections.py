"""The sections of the configuration that decide an evaluation."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from bigbatch_ue.config.names import ArmName, Countermeasure
from bigbatch_ue.config.section import Bound, InputSize, Positive, Section
from bigbatch_ue.config.sections import TrainingRecipe

LABELLINGS = r"^(own|map:.+|random:[1-9]\d{0,8}|prototypes:[1-9]\d{0,8})$"


class TargetConfig(Section):
    """The network that a scraper trains; every arm uses the same recipe."""

    added_later: ClassVar[dict[str, Any]] = {"size": "data"}
    model: str = Field("resnet18", description="Name of any timm model.")
    args: dict[str, JsonValue] = Field(
        {}, description="Further arguments of `timm.create_model`, such as `channels`."
    )
    weights: str = Field(
        "scratch",
        pattern=r"^(scratch|pretrained|package|simclr|file:.+)$",
        description="Start of the training: random weights, weights of timm's hub, of the extra "
        "`pretrained` (`tf_efficientnet_lite0`) or of a file to fine-tune, or a linear probe on an "
        "encoder trained by SimCLR on the arm's images.",
    )
    size: InputSize = Field(
        "data",
        description="Height and width, in pixels, to which images are resized before the target "
        "sees them: those of the `data`, or the network's `own`, at which it was pretrained.",
    )
    fit: TrainingRecipe = Field(TrainingRecipe(epochs=30), description="Training of the target.")


class AdversarialConfig(Section):
    """Adversarial training by projected gradient descent (PGD) within an L-inf ball."""

    eps: Bound = Field(
        8 / 255, description="Radius of the ball, as `generator.eps`; default 8/255."
    )
    steps: Positive = Field(3, description="PGD steps for each batch.")


class EvaluationConfig(Section):
    """The targets that are trained to evaluate the perturbations."""

    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = Field(
        (0, 1, 2), min_length=1, description="Seeds of the targets; every arm is trained with each."
    )
    arms: tuple[ArmName, ...] = Field(
        tuple(name for name in ArmName if name != ArmName.PROTECTED),
        description="Arms to train, each on its own kind of training set; "
        "`protected` stands for images of another program.",
    )
    fractions: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (0.8, 1.0), description="Fractions of the training images that are protected."
    )
    countermeasures: tuple[Countermeasure, ...] = Field(
        (), description="Countermeasures of the scraper to try, as a list or `all`."
    )
    countered: tuple[ArmName, ...] = Field(
        (ArmName.CLEAN, ArmName.UC),
        description="Arms that are also trained under `countermeasures` and other `labels`; not "
        "`unprotected`.",
    )
    labels: tuple[Annotated[str, Field(pattern=LABELLINGS)], ...] = Field(
        ("own",),
        description="Labels that the scraper uses: those of the data set (`own`), a renaming in a "
        "YAML file (`map:PATH`), or M groups of classes, at `random` or by k-means (`prototypes`).",
    )
    adversarial: AdversarialConfig = Field(
        AdversarialConfig(),
        description="Adversarial training, the countermeasure `adversarial`: PGD within an L-inf "
        "ball.",
    )
    share: Literal["arms", "batches"] = Field(
        "arms",
        description="Division of the work over ranks: each trains other `arms`, or all train each "
        "batch together (`batches`, DDP only).",
    )

    @field_validator("countermeasures", mode="before")
    @classmethod
    def _expand_all(cls, value: Any) -> Any:
        return tuple(Countermeasure) if value == "all" else value

    @model_validator(mode="after")
    def _check_lists(self) -> Self:
        for key in ("seeds", "arms", "fractions", "countermeasures", "countered", "labels"):
            values = getattr(self, key)
            if len(set(values)) < len(values):
                raise ValueError(f"evaluation.{key}: contains a value twice; remove one of them")
        if ArmName.UNPROTECTED in self.countered:
            raise ValueError(
                "evaluation.countered: needs arms of whole training sets; remove `unprotected`"
            )
        return self
