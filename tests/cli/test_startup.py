"""Commands that only look something up import nothing that takes seconds."""

import subprocess
import sys
from pathlib import Path

import pytest

SLOW = {"torch", "timm", "accelerate", "pandas", "sklearn", "scipy", "matplotlib"}
RUN = f"""
import atexit, sys
atexit.register(lambda: print(sorted({SLOW} & sys.modules.keys()), file=sys.stderr))
from bigbatch_ue.cli.commands import main
main()
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("train", "--help"),
        ("datasets",),
        ("presets", "digits"),
        ("plan", "--preset", "pets", "--images", "3680", "--ranks", "4"),
        ("plan", "--preset", "pets", "--images", "3680", "--nodes", "4600", "--gpus", "6"),
        ("plan", "--preset", "digits", "--images", "1000", "data.size=64", "generator.width=8"),
    ],
    ids=" ".join,
)
def test_looking_something_up_imports_nothing_slow(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stdout
    assert done.stderr == "[]\n"


def test_a_network_that_only_timm_knows_is_still_counted(tmp_path: Path) -> None:
    given = ("plan", "--images", "100", "surrogate.model=resnet26", "generator.width=4")
    done = subprocess.run(
        [sys.executable, "-c", RUN, *given], cwd=tmp_path, capture_output=True, text=True
    )
    assert "surrogate: activations" in done.stdout
    assert "timm" in done.stderr
