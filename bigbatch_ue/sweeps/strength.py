"""The strengths that the pilot of a sweep has chosen: a small file beside the sweep's cells."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, TypeAdapter, ValidationError

from bigbatch_ue.files.formats import first_problem, read_json, write_json
from bigbatch_ue.reporting.words import percent
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.sweeps.folder import STRENGTHS


class Trial(BaseModel):
    """A strength that was tried: accuracies of networks at it, each a fraction."""

    eps: float
    accuracies: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean accuracy on clean test images of networks trained on protected ones."""
        return sum(self.accuracies) / len(self.accuracies)


class ChosenStrength(BaseModel):
    """The strength at which the protection of a data set is nearest to midway.

    Attributes:
        dataset: name of the data set.
        batch: B of the pilot.
        clean: mean accuracy of networks trained on clean images, a fraction.
        chance: accuracy of guessing: one in the number of classes.
        eps: the chosen strength.
        trials: all that were tried, by strength.
    """

    dataset: str
    batch: int
    clean: float
    chance: float
    eps: float
    trials: tuple[Trial, ...]

    def __str__(self) -> str:
        tried = ", ".join(f"{percent(t.mean)} % at {in_255(t.eps)}" for t in self.trials)
        return (
            f"{self.dataset}: eps {in_255(self.eps)}, the nearest to midway "
            f"({percent((self.clean + self.chance) / 2)} %) between clean images "
            f"({percent(self.clean)} %) and guessing ({percent(self.chance)} %) in a pilot at "
            f"B = {self.batch:,}: {tried}"
        )


def in_255(eps: float) -> str:
    """Return a strength as a fraction of white, such as `8/255`."""
    return f"{255 * eps:.3g}/255"


_CHOSEN = TypeAdapter(list[ChosenStrength])


def write_strengths(folder: Path, strengths: Sequence[ChosenStrength]) -> None:
    """Write the strengths of a sweep into its folder, atomically."""
    write_json(folder / STRENGTHS, [each.model_dump() for each in strengths])


def read_strengths(folder: Path) -> list[ChosenStrength]:
    """Read the strengths of a sweep; empty if it had no pilot.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / STRENGTHS
    if not path.exists():
        return []
    try:
        return _CHOSEN.validate_python(read_json(path, list))
    except ValidationError as error:
        raise UserError(
            f"{path}: not written by a sweep ({first_problem(error)}); run the sweep again"
        ) from None
