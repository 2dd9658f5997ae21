"""Shell completion: commands, options, names and settings, as a real bash asks for them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMPLETE = """
eval "$(bigbatch-ue --show-completion bash)"
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_bigbatch_ue_completion bigbatch-ue
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def program(tmp_path: Path) -> dict[str, str]:
    """An environment with `bigbatch-ue` on its PATH."""
    script = tmp_path / "bigbatch-ue"
    script.write_text(f"#!{sys.executable}\nfrom bigbatch_ue.cli.commands import main\nmain()\n")
    script.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
    }


def in_bash(program: dict[str, str], *words: str) -> list[str]:
    """What bash offers; it cuts words at `=`."""
    command = ["bash", "-c", COMPLETE, "bash", "bigbatch-ue", *words]
    done = subprocess.run(command, env=program, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("doc",), ["doctor"]),
        (("train", "--preset", "flow"), ["flowers102", "flowers102-parity"]),
        (("presets", "resn"), ["resnet18", "resnet50"]),
        (("evaluate", "--target", "vit"), ["vit_small"]),
        (("evaluate", "--arm", "c"), ["clean", "class_noise"]),
        (("train", "optimizer.n"), ["optimizer.name=", "optimizer.nonfinite="]),
        (("train", "data.si"), ["data.size=", "data.size=28"]),
        (("train", "seed=1", "data.name", "=", "blo"), ["bloodmnist"]),
        (("train", "surrogate.stem", "="), ["auto", "small", "standard"]),
        (("plan", "surrogate.weights", "=", "p"), ["pretrained", "package"]),
        (("evaluate", "run", "evaluation.share", "="), ["arms", "batches"]),
        (("evaluate", "run", "data."), []),
    ],
    ids=lambda value: " ".join(value),
)
def test_bash_is_offered(
    program: dict[str, str], words: tuple[str, ...], offered: list[str]
) -> None:
    assert in_bash(program, *words) == offered


def test_zsh_and_fish_see_whole_words(program: dict[str, str]) -> None:
    for shell, extra in (("zsh", {}), ("fish", {"_TYPER_COMPLETE_FISH_ACTION": "get-args"})):
        asked = {
            "_BIGBATCH_UE_COMPLETE": f"complete_{shell}",
            "_TYPER_COMPLETE_ARGS": "bigbatch-ue train data.name=fl",
        }
        done = subprocess.run(
            ["bigbatch-ue"], env={**program, **asked, **extra}, capture_output=True, text=True
        )
        assert "data.name=flowers102" in done.stdout
        assert "digits" not in done.stdout
