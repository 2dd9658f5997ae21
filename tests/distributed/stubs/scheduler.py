"""Functions of the stub commands: a Slurm and an LSF, all of whose nodes are this machine.

They take only the options that the launchers use, and append each call to `$CLUSTER/calls.jsonl`.
`sbatch` and `bsub` run a job at once, and end when it has ended.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

CLUSTER = Path(os.environ["CLUSTER"])


def record() -> list[str]:
    """Record the arguments of this command, and return them."""
    name, arguments = Path(sys.argv[0]).name, sys.argv[1:]
    with (CLUSTER / "calls.jsonl").open("a") as file:
        file.write(json.dumps([name, *arguments]) + "\n")
    return arguments


def split(arguments: Sequence[str], names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Split off the leading options: `--name=value`, `--name` or `-n value`."""
    rest, options = list(arguments), {}
    while rest and rest[0].startswith("-"):
        name, _, value = rest.pop(0).partition("=")
        if name not in names:
            sys.exit(f"unknown option {name}")
        options[name] = value if name.startswith("--") else rest.pop(0)
    return options, rest


def directives(script: Path, mark: str, names: Sequence[str]) -> dict[str, str]:
    """Read the options in the comments of a script, up to its first command."""
    options = {}
    for line in script.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            break
        if line.startswith(f"{mark} "):
            options |= split(shlex.split(line)[1:], names)[0]
    return options


def run_tasks(command: Sequence[str], environments: Sequence[dict[str, str]]) -> int:
    """Run a task in each environment, with this process's signals; return the highest exit code."""
    tasks: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, frame: object) -> None:
        for task in tasks:
            task.send_signal(number)

    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, pass_on)
    tasks += [subprocess.Popen(command, env={**os.environ, **own}) for own in environments]
    return max(code if code >= 0 else 128 - code for code in [task.wait() for task in tasks])


def batch_script(rest: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Take the script and its arguments from a command line, or the script from standard input."""
    if rest:
        return rest[0], rest[1:]
    script = CLUSTER / "submitted"
    script.write_text(sys.stdin.read())
    script.chmod(0o755)
    return str(script), []


def spool(script: str) -> Path:
    """Copy a batch script to a folder of its own, where the scheduler runs it."""
    copy = CLUSTER / "spooled"
    shutil.copy(script, copy)
    return copy
