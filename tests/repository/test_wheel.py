"""The wheel: what it contains, and that it works without a checkout and without extras."""

import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bigbatch_ue.files.formats import read_json
from tests.helpers.ranks import ROOT
from tests.helpers.runs import TINY

EXTRAS = ("deepspeed", "transformers", "pyarrow", "statsmodels", "datasets", "wandb", "mlflow")
WITHOUT_PATH = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def needed(name: str, extras: frozenset[str], found: dict[str, Distribution]) -> None:
    """Add the distributions that `name` with `extras` declares to need, and what they need."""
    for line in distribution(name).requires or ():
        requirement = Requirement(line)
        key = canonicalize_name(requirement.name)
        asked = any(
            requirement.marker is None or requirement.marker.evaluate({"extra": extra})
            for extra in extras or {""}
        )
        if asked and key not in found:
            found[key] = distribution(key)
            needed(key, frozenset(requirement.extras), found)


def entries(found: dict[str, Distribution]) -> Iterator[Path]:
    """Yield the files and folders of distributions in site-packages."""
    for each in found.values():
        for top in {file.parts[0] for file in each.files or () if file.parts[0] != ".."}:
            yield Path(str(each.locate_file(top)))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new environment with the wheel and what its core declares to need."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True, env=WITHOUT_PATH)
    (packages,) = (folder / "lib").glob("python*/site-packages")
    found: dict[str, Distribution] = {}
    needed("bigbatch-ue", frozenset(), found)
    for entry in entries(found):
        if not (packages / entry.name).exists():
            (packages / entry.name).symlink_to(entry)
    return folder / "bin"


def run(program: Path, *arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [program, *arguments]
    return subprocess.run(command, cwd=folder, env=WITHOUT_PATH, capture_output=True, text=True)


def test_the_distributions_are_well_formed(wheel: Path) -> None:
    distributions = [str(path) for path in wheel.parent.iterdir()]
    for command in (
        ["twine", "check", "--strict", *distributions],
        ["check-wheel-contents", wheel],
    ):
        program = Path(sys.executable).with_name(str(command[0]))
        checked = subprocess.run([program, *command[1:]], capture_output=True, text=True, cwd=ROOT)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    assert len(distributions) == 2


@pytest.mark.parametrize("package", EXTRAS)
def test_the_environment_has_no_extra(package: str, programs: Path, tmp_path: Path) -> None:
    imported = run(programs / "python", "-c", f"import {package}", folder=tmp_path)
    assert f"No module named '{package}'" in imported.stderr


def test_images_are_protected_without_a_checkout_and_without_extras(
    programs: Path, tmp_path: Path
) -> None:
    train = ["train", "--preset", "digits", *TINY, "output=run"]
    where = run(programs / "python", "-c", "import bigbatch_ue as b; print(b)", folder=tmp_path)
    assert str(programs.parent) in where.stdout
    for command in (["launch", "ddp", "--ranks", "2", "--", *train], ["protect", "run"]):
        done = run(programs / "bigbatch-ue", *command, folder=tmp_path)
        assert done.returncode == 0, done.stderr
    assert read_json(tmp_path / "run" / "result.json")["world_size"] == 2
    assert (tmp_path / "run" / "protected" / "protected.json").exists()


@pytest.mark.parametrize(
    ("program", "arguments", "package", "extra"),
    [
        (
            "bigbatch-ue",
            ["launch", "zero2", "--ranks", "2", "--", "train"],
            "deepspeed",
            "deepspeed",
        ),
        ("python", ["-m", "analysis", "report", "x"], "pyarrow", "analysis"),
    ],
)
def test_what_an_extra_installs_is_named_where_it_is_missing(
    program: str, arguments: list[str], package: str, extra: str, programs: Path, tmp_path: Path
) -> None:
    done = run(programs / program, *arguments, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert f'needs {package}; run: pip install "bigbatch-ue[{extra}]"' in done.stderr
    assert done.stderr.count("\n") == 1
