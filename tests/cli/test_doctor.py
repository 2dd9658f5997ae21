"""The examination of the installation: real damage is named, with what to do about it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from bigbatch_ue.cli.doctor import examine, findings_table
from bigbatch_ue.cli.doctor import extra_finding as extra
from bigbatch_ue.config.load import load_config


def doctor(folder: Path, *settings: str, **environment: str) -> tuple[int, str, str]:
    """Runs the command: exit code, lines of the table, standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "bigbatch_ue", "doctor", *settings],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


def line(table: str, what: str) -> str:
    (found,) = (row for row in table.splitlines() if row.startswith(f"│ {what} "))
    return found


def fake(folder: Path, package: str) -> str:
    """Makes a package that cannot be imported; returns a PYTHONPATH on which it comes first."""
    (folder / package).mkdir(parents=True)
    (folder / package / "__init__.py").write_text(
        "raise ImportError('libnothing.so: no such file')"
    )
    return os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


def test_a_sound_machine_is_ok_and_nothing_is_written(tmp_path: Path) -> None:
    code, out, err = doctor(tmp_path)
    assert (code, err) == (0, "")
    for what in ("Python", "torch", "gloo", "cores", "memory", "data.root", "runs", "images"):
        assert line(out, what).rstrip(" │").endswith("ok"), what
    assert "BROKEN" not in out
    assert list(tmp_path.iterdir()) == []


def test_the_home_folder_is_not_shown(tmp_path: Path) -> None:
    _, out, _ = doctor(tmp_path, HOME=str(tmp_path))
    assert str(tmp_path) not in out
    assert "~/data, to be made" in line(out, "data.root")


def test_a_torch_that_cannot_be_imported_is_broken_and_the_rest_is_examined(tmp_path: Path) -> None:
    path = fake(tmp_path / "fake", "torch")
    code, out, err = doctor(tmp_path, f"data.root={tmp_path}/file/data", PYTHONPATH=path)
    assert code == 2
    assert err.startswith("error: doctor: ")
    assert "torch" in err
    assert "BROKEN: cannot be imported (libnothing.so: no such file)" in line(out, "torch")
    assert "pip install --force-reinstall 'torch>=" in line(out, "torch")
    assert "GiB free" in line(out, "runs")


def test_a_package_of_an_extra_is_not_needed(tmp_path: Path) -> None:
    path = fake(tmp_path / "fake", "deepspeed")
    code, out, _ = doctor(tmp_path, PYTHONPATH=path)
    assert code == 0
    said = line(out, "[deepspeed]")
    assert "optional; deepspeed: cannot be imported" in said
    assert "pip install 'bigbatch-ue[deepspeed]'" in said


@pytest.mark.parametrize(
    ("setting", "what"), [("data.root=/proc/data", "data.root"), ("output=/proc/run", "output")]
)
def test_a_folder_that_cannot_be_written_is_broken(setting: str, what: str) -> None:
    findings = {finding.what: finding for finding in examine(load_config(overrides=[setting]))}
    assert findings[what].broken
    assert "cannot be written" in findings[what].verdict
    assert sum(finding.broken for finding in findings.values()) == 1


def test_without_a_compiler_only_deepspeed_suffers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    findings = {finding.what: finding for finding in examine(load_config())}
    for tool in ("c++", "ninja"):
        assert findings[tool].verdict == (
            "DeepSpeed without GPUs cannot start: install c++ and ninja, or put them on PATH"
        )
    assert not any(finding.broken for finding in findings.values())
    (tmp_path / "deepspeed_shm_comm").mkdir()
    (tmp_path / "deepspeed_shm_comm" / "deepspeed_shm_comm.so").touch()
    findings = {finding.what: finding for finding in examine(load_config())}
    assert findings["c++"].verdict == "ok"


def test_missing_images_and_wrong_variables_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = load_config(overrides=["data.name=bloodmnist", f"data.root={tmp_path}"])
    findings = {finding.what: finding for finding in examine(config)}
    assert "add --download" in findings["images"].verdict
    assert findings["ranks"].broken
    assert "RANK" in findings["ranks"].verdict
    assert findings_table(findings.values()).row_count == len(findings)


def test_an_extra_says_what_installs_it() -> None:
    none = extra("heic", [Requirement("no-such-package-here>=1")])
    assert none.found == "not installed"
    assert none.verdict == "optional; if you need it: pip install 'bigbatch-ue[heic]'"
    old = extra("heic", [Requirement("pytest>=1000"), Requirement("rich>=1")])
    assert "optional; pytest: needs >=1000; if you need it" in old.verdict
    assert not old.broken
