"""The section of the configuration that decides the effective batch, and its schedule."""

from contextlib import suppress
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from bigbatch_ue.config.section import Positive, Section
from bigbatch_ue.runtime.errors import UserError

BatchSize = Annotated[int, Field(ge=1, le=2**24)]


class Ramp(Section):
    """A linear change of B, from `ramp_from` at step 0 to `batch.effective` at `ramp_steps`."""

    ramp_from: BatchSize
    ramp_steps: Positive


Points = tuple[tuple[Annotated[int, Field(ge=0, lt=2**31)], BatchSize], ...]
"""B by the step from which on it is valid."""
_SCHEDULE: TypeAdapter[Points | Ramp] = TypeAdapter(Points | Ramp)


def _read_schedule(given: Any) -> Any:
    """Read a schedule in either form; None is none."""
    if given is None:
        return None
    try:
        schedule = _SCHEDULE.validate_python(given)
    except ValidationError:
        raise PydanticCustomError(
            "schedule",
            "must be null, a list of step and B such as [[0, 64], [500, 256]], or "
            "{ramp_from: B, ramp_steps: steps}, with B from 1 to 16777216",
        ) from None
    if isinstance(schedule, tuple):
        steps = [step for step, _ in schedule]
        if steps[:1] != [0] or any(later <= earlier for earlier, later in pairwise(steps)):
            raise PydanticCustomError("schedule", "must have ascending steps, the first of them 0")
    return schedule


_IN_WORDS = [{"const": "[[step, B], ...]"}, {"const": "{ramp_from: B, ramp_steps: steps}"}]
Schedule = Annotated[Points | Ramp, WithJsonSchema({"anyOf": _IN_WORDS})]


class BatchConfig(Section):
    """The effective batch of one generator, and how it is divided."""

    added_later: ClassVar[dict[str, Any]] = {"schedule": None}
    effective: Literal["auto"] | BatchSize = Field(
        256,
        description="Effective batch B: images in one optimizer step of one generator, over all "
        "ranks and micro-batches; with `schedule`, the one it ends with. `auto` chooses it from "
        "the gradient noise scale of the first steps.",
    )
    schedule: Annotated[Schedule | None, BeforeValidator(_read_schedule)] = Field(
        None,
        description="Effective batch that changes with the steps: B from each step on, the first "
        "step being 0; or a line from `ramp_from` to `effective`, which B reaches after "
        "`ramp_steps` steps. Of a list, `effective` follows.",
    )
    micro: Literal["auto"] | Positive = Field(
        "auto",
        description="Maximum number of images in one pass of the surrogate on one rank; `auto` is "
        "the largest that fits into memory. It does not change the result.",
    )
    scope: Literal["cluster", "all"] = Field(
        "cluster",
        description="Images that a generator sees: those of its own `cluster`, or `all` images, as "
        "in the public UC code.",
    )
    extend: Literal["cap", "views"] = Field(
        "cap",
        description="If B exceeds the images of a generator: `cap` takes each image once, `views` "
        "repeats images in more random views.",
    )
    accumulation: Literal["delta", "engine"] = Field(
        "delta",
        description="Gradient path: `delta` runs the generators once per step, `engine` once per "
        "micro-batch. Both give the same gradient.",
    )

    @model_validator(mode="before")
    @classmethod
    def _end_of_schedule(cls, content: Any) -> Any:
        """Take the last B of a listed schedule for `effective`, unless that is given too."""
        if not isinstance(content, dict) or "effective" in content:
            return content
        with suppress(PydanticCustomError):  # the schedule's own error says more
            match _read_schedule(content.get("schedule")):
                case (*_, (_, last)):
                    return {**content, "effective": last}
        return content

    @model_validator(mode="after")
    def _check_schedule(self) -> Self:
        if self.schedule is not None and self.effective == "auto":
            raise ValueError("batch.schedule: not together with batch.effective=auto; remove one")
        if isinstance(self.schedule, tuple) and self.schedule[-1][1] != self.effective:
            raise ValueError(
                f"batch.effective={self.effective}: batch.schedule ends with "
                f"{self.schedule[-1][1]}; leave batch.effective out, or set it to that"
            )
        if self.effective == "auto" and self.accumulation == "engine":
            raise ValueError(
                "batch.effective=auto: the gradient noise is measured with "
                "batch.accumulation=delta only; change one of them"
            )
        return self

    @property
    def given(self) -> int:
        """The effective batch as a number, with which a schedule ends.

        Raises:
            UserError: `effective` is `auto`.
        """
        if self.effective == "auto":
            raise UserError("batch.effective=auto: training chooses it; a number is needed here")
        return self.effective

    @property
    def in_words(self) -> str:
        """B for names of folders: `64`, `64to1024` for a schedule, or `auto`."""
        match self.schedule:
            case None:
                return str(self.effective)
            case Ramp() as ramp:
                return f"{ramp.ramp_from}to{self.effective}"
            case points:
                return f"{points[0][1]}to{self.effective}"
