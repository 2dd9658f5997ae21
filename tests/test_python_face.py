"""The Python API: names that are loaded when they are used, and the example of its page."""

import ast
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

import analysis
import bigbatch_ue
from analysis.table.table import read_table
from bigbatch_ue.runs.folder import RunFiles
from bigbatch_ue.runs.result import read_result
from tests.helpers.runs import make_evaluated_run

PAGE = Path(__file__).resolve().parents[1] / "docs" / "python.md"
FACES = [(bigbatch_ue, {"sweep", "__version__"}), (analysis, set[str]())]


def examples() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, analysis, bigbatch_ue; bigbatch_ue.load_config, bigbatch_ue.make_plan; "
        "heavy = {'torch', 'pandas', 'timm', 'accelerate', 'matplotlib'}; "
        "print(sorted(heavy & sys.modules.keys())); "
        "analysis.analyse; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "[]\nFalse\n"), done.stderr


@pytest.mark.parametrize(("face", "others"), FACES, ids=["bigbatch_ue", "analysis"])
def test_every_name_is_there_and_known_to_type_checkers(face: ModuleType, others: set[str]) -> None:
    names = set(face.__all__)
    assert names == set(dir(face))
    assert all(getattr(face, name) is not None for name in names)
    code = ast.parse(Path(str(face.__file__)).read_text())
    typed = next(node for node in code.body if isinstance(node, ast.If))
    imports = [node for node in typed.body if isinstance(node, ast.ImportFrom)]
    reexported = {alias.asname for node in imports for alias in node.names if alias.asname}
    assert reexported | others == names
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = face.nothing


def test_every_name_is_on_its_page() -> None:
    page = PAGE.read_text()
    names = [*bigbatch_ue.__all__, *analysis.__all__]
    missing = [name for name in names if not re.search(rf"`{name}[(`]", page)]
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
    assert "guessing gets 10.0 %" in printed
    for name in ("training.png", "accuracy.png"):
        with Image.open(name) as figure:
            assert figure.width > 400
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


def test_the_example_of_an_analysis_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for batch in (4, 8, 16):
        make_evaluated_run(tmp_path / "runs" / "sweep", f"b{batch}", f"batch.effective={batch}")
    script = tmp_path / "curves.py"
    script.write_text(examples()[2])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script), run_name="__main__")
    printed = capsys.readouterr().out
    assert "18 rows; runs left out: 0" in printed
    assert "digits at equal epochs: " in printed
    assert "report: runs/sweep/analysis/report.html" in printed
    with Image.open("curves.png") as figure:
        assert figure.width > 400
    assert len(read_table(Path("runs/sweep/analysis/table.csv"))) == 18


def test_the_entry_module_of_the_same_name_still_runs() -> None:
    command = [sys.executable, "-m", "bigbatch_ue.train", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--resume" in done.stdout
