"""The real command line with a fuse: SIGKILL at some moment of one of its stages.

    python -m tests.soak.fused train --preset digits ...

The environment variable `FUSE` contains the fields of `Fuse` as JSON. Without it, the seconds of
each stage are written as JSON lines to the file that `STAGES` names.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import psutil

STAGES = {
    "decoding": ("bigbatch_ue.training.train", "prepare_dataset"),
    "clustering": ("bigbatch_ue.training.train", "prepare_job"),
    "training": ("bigbatch_ue.training.train", "train_job"),
    "protecting": ("bigbatch_ue.protection.protect", "protect"),
    "evaluating": ("bigbatch_ue.evaluation.evaluate", "evaluate"),
}
"""The function of each stage: its module and its name."""


@dataclass(frozen=True)
class Fuse:
    """The moment to die, and the victims: `rank` alone, or also the launcher and all ranks."""

    stage: str
    seconds: float
    rank: int
    victims: Literal["one", "all"]

    def wrap(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """Make `work` kill this process after `seconds`, or at its end if that comes first."""

        @wraps(work)
        def burning(*arguments: Any, **named: Any) -> None:
            timer = threading.Timer(self.seconds, self.die)
            timer.daemon = True
            timer.start()
            work(*arguments, **named)
            self.die()

        return burning

    def die(self) -> None:
        """Kill this process and the other victims."""
        if self.victims == "all" and "RANK" in os.environ:
            launcher = psutil.Process().parent()
            assert launcher is not None
            ranks = launcher.children()
            launcher.kill()
            for rank in ranks:
                if rank.pid != os.getpid():
                    rank.kill()
        os.kill(os.getpid(), signal.SIGKILL)


def timed(stage: str, work: Callable[..., Any], path: Path) -> Callable[..., Any]:
    """Make `work` append its seconds to the file at `path`."""

    @wraps(work)
    def measured(*arguments: Any, **named: Any) -> Any:
        began = time.perf_counter()
        result = work(*arguments, **named)
        with path.open("a") as file:
            file.write(json.dumps([stage, time.perf_counter() - began]) + "\n")
        return result

    return measured


def main() -> None:
    """Set the fuse, if there is one for this rank, and run the command."""
    from bigbatch_ue.cli.commands import main as command_line

    rank = int(os.environ.get("RANK", "0"))
    fuse = Fuse(**json.loads(os.environ["FUSE"])) if "FUSE" in os.environ else None
    for stage, (module, function) in STAGES.items():
        work = getattr(import_module(module), function)
        if fuse is None and rank == 0:
            work = timed(stage, work, Path(os.environ["STAGES"]))
        elif fuse is not None and (fuse.stage, fuse.rank) == (stage, rank):
            work = fuse.wrap(work)
        setattr(import_module(module), function, work)
    command_line(sys.argv[1:])


if __name__ == "__main__":
    main()
