"""The analysis from its command line: from a table to a page, and bad input as one line."""

from pathlib import Path

import pytest

from analysis.cli import main
from analysis.table.table import write_table
from tests.helpers.command_line import Cli, cli_of
from tests.helpers.findings import a_table


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command: exit code, standard output, standard error."""
    return cli_of(main, capsys)


def test_report_makes_everything_of_a_table_alone(cli: Cli, tmp_path: Path) -> None:
    write_table(a_table(("digits",)), tmp_path)
    code, out, _ = cli("report", tmp_path, "--draws", "100")
    assert code == 0
    assert "digits at equal epochs" in out
    assert f"report: {tmp_path / 'report.html'}" in out
    made = {path.name for path in tmp_path.iterdir()}
    assert made >= {"report.html", "report.md", "findings.json", "fits.csv", "plots"}
    assert (tmp_path / "plots" / "steps-digits.svg").exists()


def test_single_steps(cli: Cli, tmp_path: Path) -> None:
    write_table(a_table(("digits",)), tmp_path)
    assert cli("fit", tmp_path, "--draws", "100")[0] == 0
    assert (tmp_path / "fits.csv").exists()
    code, out, _ = cli("plot", tmp_path, "--draws", "100")
    assert code == 0
    assert "all.png" in out
    code, out, _ = cli("tensorboard", tmp_path, "--draws", "100")
    assert code == 0
    assert f"tensorboard --logdir {tmp_path / 'tensorboard'}" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("collect", "."), "no run folders here"),
        (("fit", "."), "table.csv: no such file"),
        (("report", ".", "--draws", "1"), "--draws"),
        (("fits", "."), "No such command"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...],
    says: str,
    cli: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
