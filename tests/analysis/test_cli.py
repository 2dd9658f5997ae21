"""The analysis from its command line: from a table to a page, and bad input as one line."""

import subprocess
import sys
from pathlib import Path
from pkgutil import walk_packages

import pytest

import analysis
from analysis.cli import main
from analysis.findings.critical_batch import statements
from analysis.findings.findings import analyse
from analysis.findings.sentences import recommendation
from analysis.table.table import write_table
from tests.helpers.command_line import Cli, cli_of
from tests.helpers.findings import a_measured_table, a_table


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command: exit code, standard output, standard error."""
    return cli_of(main, capsys)


def test_report_makes_everything_of_a_table_alone(cli: Cli, tmp_path: Path) -> None:
    write_table(a_table(("digits",)), tmp_path)
    code, out, _ = cli("report", tmp_path, "--draws", "500")
    assert code == 0
    assert "digits at equal epochs" in out
    assert f"report: {tmp_path / 'report.html'}" in out
    made = {path.name for path in tmp_path.iterdir()}
    assert made >= {"report.html", "report.md", "findings.json", "fits.csv", "plots"}
    assert (tmp_path / "plots" / "steps-digits.svg").exists()


def test_single_steps(cli: Cli, tmp_path: Path) -> None:
    table = a_measured_table()
    write_table(table, tmp_path)
    code, out, _ = cli("fit", tmp_path, "--draws", "500")
    assert code == 0
    findings = analyse(table, draws=500)
    assert out.splitlines() == [
        *map(recommendation, findings.findings),
        *statements(findings).values(),
        *(f"{one.dataset}: {one.statement}" for one in findings.separations),
    ]
    assert (tmp_path / "fits.csv").exists()
    code, out, _ = cli("plot", tmp_path, "--draws", "500")
    assert code == 0
    assert "all.png" in out
    code, out, _ = cli("tensorboard", tmp_path, "--draws", "500")
    assert code == 0
    assert f"tensorboard --logdir {tmp_path / 'tensorboard'}" in out


@pytest.mark.parametrize("command", ["fit", "report", "tensorboard"])
def test_an_older_table_is_noted_once(command: str, cli: Cli, tmp_path: Path) -> None:
    table = a_table(("digits",), batches=(4, 16, 64), seeds=2)
    write_table(table.rename(columns={"detrended_oscillation": "oscillation"}), tmp_path)
    code, _, err = cli(command, tmp_path, "--draws", "500")
    assert code == 0
    assert err.count("the column oscillation is left out") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("collect", "."), "no run folders here"),
        (("fit", "."), "table.csv: no such file; run `collect` first"),
        (("report", ".", "--draws", "1"), "--draws"),
        (("fits", "."), "No such command"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...],
    message: str,
    cli: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_analysis_needs_no_torch() -> None:
    names = {module.name for module in walk_packages(analysis.__path__, "analysis.")}
    modules = ", ".join(names - {"analysis.__main__"})
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
