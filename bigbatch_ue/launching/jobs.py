"""Jobs of Slurm and LSF: their scripts, and handing them in."""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bigbatch_ue.files.atomic import atomic_file
from bigbatch_ue.files.formats import digest
from bigbatch_ue.launching.engines import LaunchedEngine
from bigbatch_ue.runtime.errors import UserError

Scheduler = Literal["slurm", "lsf"]

SHARED = ("sweep", "evaluate")
"""Commands whose work several jobs share; `train` and `bench` run on the ranks of one job."""
_MARGIN = 10
"""Minutes before the limit of an LSF job at which its command is stopped: LSF's signal may not
reach the nodes."""
_SUBMIT = {"slurm": "sbatch", "lsf": "bsub"}


@dataclass(frozen=True)
class Job:
    """One job, or an array of jobs that share the work of a command.

    Attributes:
        scheduler: of the cluster.
        command: the command of `bigbatch-ue`, and its arguments.
        nodes: number of nodes; with a command that jobs share, the number of jobs with one each.
        minutes: time limit.
        engine: engine of a training.
        gpus: number of GPUs per node; 0 for ranks on the CPU.
        ranks: number of ranks per node.
        cores: number of CPU cores per node.
        at_most: number of jobs of an array that run at the same time; None for no limit.
        options: further options of the scheduler.
        setup: lines of bash that run before the command.
    """

    scheduler: Scheduler
    command: Sequence[str]
    nodes: int
    minutes: int
    engine: LaunchedEngine
    gpus: int
    ranks: int
    cores: int
    at_most: int | None
    options: Sequence[str]
    setup: Sequence[str]

    def __post_init__(self) -> None:
        """Check what belongs together.

        Raises:
            UserError: a time or an option that the scheduler or the command cannot have.
        """
        if self.at_most is not None and not self.shared:
            raise UserError(
                f"--at-most: is for commands that jobs share ({', '.join(SHARED)}), not for "
                f"{self.command[0]}; leave it out"
            )
        if self.scheduler == "lsf" and self.minutes <= _MARGIN:
            raise UserError(
                f"--time: expected more than {_MARGIN} minutes, since the command stops "
                f"{_MARGIN} minutes before the limit"
            )

    @property
    def shared(self) -> bool:
        """Whether several jobs share the work."""
        return self.command[0] in SHARED

    def script(self) -> str:
        """Return the script of the job."""
        from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

        package = "bigbatch_ue.launching"
        environment = Environment(
            loader=ChoiceLoader(
                [PackageLoader(package, place) for place in ("templates", "launchers")]
            ),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        program = [sys.executable, "-m", "bigbatch_ue"]
        ranks = self.nodes * self.ranks
        launch = [*program, "launch", self.engine, "--ranks", str(ranks)]
        return environment.get_template(f"{self.scheduler}.sh").render(
            job=self,
            time=f"{self.minutes // 60:02d}:{self.minutes % 60:02d}",
            until=self.minutes - _MARGIN,
            folder=shlex.quote(str(Path.cwd())),
            program=shlex.join(program),
            launch=shlex.join(launch),
            command=shlex.join(self.command),
        )


def submit_job(job: Job, folder: Path) -> str:
    """Write the script of `job` into `folder`, hand it in, and return the scheduler's answer.

    Raises:
        UserError: the scheduler's command is missing, or refuses the job.
    """
    name = _SUBMIT[job.scheduler]
    if shutil.which(name) is None:
        raise UserError(
            f"{name}: not found; run this on a login node of the cluster, or add --dry-run"
        )
    content = job.script()
    script = folder / f"{job.scheduler}-{job.command[0]}-{digest(content)}.sh"
    with atomic_file(script) as temporary:
        temporary.write_text(content, encoding="utf-8")
    done = subprocess.run([name], input=content, capture_output=True, text=True)
    if done.returncode:
        *_, reason = ["no reason given", *done.stderr.split("\n")[:-1]]
        raise UserError(f"{script}: {name} refuses it ({reason}); change the options")
    return f"{script}: {done.stdout.strip()}"


def parse_minutes(text: str) -> int:
    """Parse a time limit, H:MM or a number of minutes, as minutes.

    Raises:
        UserError: neither, or zero.
    """
    hours, colon, minutes = text.rpartition(":")
    numbers = [hours, minutes] if colon else [minutes]
    if all(part.isdecimal() for part in numbers) and not (colon and int(minutes) > 59):
        total = sum(int(part) * unit for part, unit in zip(numbers[::-1], (1, 60), strict=False))
        if total > 0:
            return total
    raise UserError(f"--time {text}: expected hours and minutes, H:MM, or a number of minutes")
