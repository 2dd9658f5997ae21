"""Everything that can go wrong, at full size: `make soak`, under an hour on 2 cores.

    python -m tests.soak [--seed N] [--kills N] [--cases N]

Bad inputs are tried beside the kills, then a million images and a thousand runs are loaded. Ends
with how many kill points a run recovered from, and how many bad inputs were handled; with exit code
1 if those are not all. The same seed tries the same.
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
    kills: Annotated[int, typer.Option(min=1, help="moments to kill at")] = 60,
    cases: Annotated[int, typer.Option(min=1, help="bad inputs to try")] = 2500,
) -> None:
    """Kill, feed and load the program."""
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"[{(time.monotonic() - began) / 60:4.1f} min] {line}", flush=True)

    with TemporaryDirectory(prefix="soak-") as temporary:
        told = Path(temporary, "inputs.txt")
        inputs = [sys.executable, "-m", "tests.soak.inputs", str(cases), str(seed)]
        with told.open("w") as output, subprocess.Popen(inputs, stdout=output) as fuzz:
            recovered = run_kills(kills, seed, Path(temporary), say)
            say("waiting for the bad inputs")
            fuzz.wait()
        *details, last = told.read_text().splitlines()
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
