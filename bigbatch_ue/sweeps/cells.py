"""A cell of a sweep: one run, its folder, and what it came to."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bigbatch_ue.config.schema import Config
from bigbatch_ue.data.decoded import DataSet
from bigbatch_ue.files.atomic import read_json
from bigbatch_ue.runtime.errors import UserError

CONFIG, OUTCOME, LOG = "cell.yaml", "outcome.json", "log.txt"


@dataclass(frozen=True)
class Outcome:
    """What a cell came to.

    Attributes:
        state: whether it was finished.
        reason: why it failed, in one line; empty if it did not.
        seconds: that it took.
    """

    state: Literal["finished", "failed"]
    reason: str
    seconds: float

    @property
    def finished(self) -> bool:
        """Whether there are results."""
        return self.state == "finished"


@dataclass(frozen=True)
class Cell:
    """One run of a sweep; `config` is all that decides it, and says where it goes."""

    config: Config
    data: DataSet

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.config.run_folder

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def axes(self) -> dict[str, Any]:
        """What a sweep varies, and at which batch a step sees a whole cluster (`full`)."""
        return {**self.config.axes, "full": self.config.full_batch(len(self.data.train))}

    def outcome(self) -> Outcome | None:
        """What it came to, or None if it has not been done.

        Raises:
            UserError: a file that is torn or of another kind.
        """
        path = self.folder / OUTCOME
        if not path.exists():
            return None
        try:
            return Outcome(**read_json(path, dict)["outcome"])
        except (TypeError, KeyError) as error:
            raise UserError(f"{path}: no outcome of a cell ({error}); remove it") from None
