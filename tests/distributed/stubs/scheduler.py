"""What the stub commands beside this file share: a Slurm and an LSF, all nodes this machine.

They take the options that the launchers use and no others, and write each call to
`$CLUSTER/calls.jsonl`. `sbatch` and `bsub` do a job at once, and end when it has ended.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

CLUSTER = Path(os.environ["CLUSTER"])


def record() -> list[str]:
    """This command's arguments, after writing them down."""
    name, arguments = Path(sys.argv[0]).name, sys.argv[1:]
    with (CLUSTER / "calls.jsonl").open("a") as file:
        file.write(json.dumps([name, *arguments]) + "\n")
    return arguments


def split(arguments: Sequence[str], names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Leading options, `--name=value`, `--name` or `-n value`, and the rest."""
    rest, options = list(arguments), {}
    while rest and rest[0].startswith("-"):
        name, _, value = rest.pop(0).partition("=")
        if name not in names:
            sys.exit(f"unknown option {name}")
        options[name] = value if name.startswith("--") else rest.pop(0)
    return options, rest


def directives(script: Path, mark: str, names: Sequence[str]) -> dict[str, str]:
    """The options in a script's comments, which end at its first command."""
    options = {}
    for line in script.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            break
        if line.startswith(f"{mark} "):
            options |= split(line.split()[1:], names)[0]
    return options


def run_tasks(command: Sequence[str], environments: Sequence[dict[str, str]]) -> int:
    """Run a task in each environment; they get this process's signals. The highest exit code."""
    tasks: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, frame: object) -> None:
        for task in tasks:
            task.send_signal(number)

    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, pass_on)
    tasks += [subprocess.Popen(command, env={**os.environ, **own}) for own in environments]
    return max(code if code >= 0 else 128 - code for code in [task.wait() for task in tasks])


def spool(script: str) -> Path:
    """The copy of a batch script that runs; it has no neighbours."""
    copy = CLUSTER / "spooled"
    shutil.copy(script, copy)
    return copy
