"""The soak test, `make soak`: everything that can go wrong, at full size, in an hour on 2 cores.

    python -m tests.soak [--seed N] [--kills N] [--cases N]

Bad inputs are tried in parallel to the kills; then a million images and a thousand runs are loaded.
The last lines are the numbers of kill points that a run recovered from, and of bad inputs that were
handled. The exit code is 1 if any was not. The same seed repeats the same trials.
"""

import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from tests.soak.kills import run as run_kills


def main(
    seed: Annotated[int, typer.Option(min=0)] = 0,
    kills: Annotated[int, typer.Option(min=1, help="number of kill points")] = 60,
    cases: Annotated[int, typer.Option(min=1, help="number of bad inputs")] = 2500,
) -> None:
    """Kill the program, give it bad inputs, and give it many images and runs."""
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"[{(time.monotonic() - began) / 60:4.1f} min] {line}", flush=True)

    with TemporaryDirectory(prefix="soak-") as temporary:
        log = Path(temporary, "inputs.txt")
        inputs = [sys.executable, "-m", "tests.soak.inputs", str(cases), str(seed)]
        with log.open("w") as output, subprocess.Popen(inputs, stdout=output) as fuzz:
            recovered = run_kills(kills, seed, Path(temporary), say)
            say("waiting for the bad inputs")
            fuzz.wait()
        *details, last = log.read_text().splitlines()
        for line in details:
            print(line)
        say("a million images, a thousand runs")
        load = subprocess.run([sys.executable, "-m", "tests.soak.load"], check=False)
    say("done")
    print(f"kill points: {kills} recovered: {recovered}")
    print(last)
    if recovered < kills or fuzz.returncode or load.returncode:
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
