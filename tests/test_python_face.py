"""The Python API: names that are loaded when they are used, and the example of its page."""

import ast
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import bigbatch_ue
from bigbatch_ue.runs.folder import RunFiles
from bigbatch_ue.runs.result import read_result

PAGE = Path(__file__).resolve().parents[1] / "docs" / "python.md"


def examples() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, bigbatch_ue; bigbatch_ue.load_config, bigbatch_ue.make_plan; "
        "print(sorted({'torch', 'pandas', 'timm', 'accelerate'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_every_name_is_there_and_known_to_type_checkers() -> None:
    names = set(bigbatch_ue.__all__)
    assert names == set(dir(bigbatch_ue))
    assert all(getattr(bigbatch_ue, name) is not None for name in names)
    code = ast.parse(Path(str(bigbatch_ue.__file__)).read_text())
    typed = next(node for node in code.body if isinstance(node, ast.If))
    imports = [node for node in typed.body if isinstance(node, ast.ImportFrom)]
    reexported = {alias.asname for node in imports for alias in node.names if alias.asname}
    assert {*reexported, "sweep", "__version__"} == names
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = bigbatch_ue.nothing  # type: ignore[attr-defined]


def test_every_name_is_on_its_page() -> None:
    page = PAGE.read_text()
    missing = [n for n in bigbatch_ue.__all__ if not re.search(rf"`{n}[(`]", page)]
    assert missing == ["__version__"]


def test_the_example_runs_and_train_stays_the_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "example.py"
    script.write_text(examples()[0])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script), run_name="__main__")
    printed = capsys.readouterr().out
    for line in ("10 steps of B = 16 images", "largest change", "uc: accuracy 0.", "report: runs/"):
        assert line in printed
    assert read_result(RunFiles(Path("runs/python")).result).effective_batch == 16
    from bigbatch_ue.training.train import train

    assert bigbatch_ue.train is train


def test_the_example_of_a_sweep_is_importable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "sweep.py"
    script.write_text(examples()[1])
    monkeypatch.chdir(tmp_path)
    names = runpy.run_path(str(script), run_name="example")
    assert names["sweep"] is bigbatch_ue.sweep


def test_the_entry_module_of_the_same_name_still_runs() -> None:
    command = [sys.executable, "-m", "bigbatch_ue.train", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--resume" in done.stdout
