"""The batch plan as a table."""

from pathlib import Path

import pytest

from bigbatch_ue.cli.commands import main
from tests.helpers.command_line import Cli, cli_of


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return cli_of(main, capsys)


def test_plan_prints_the_decomposition_without_training(cli: Cli, tmp_path: Path) -> None:
    options = ("--images", "3680", "--ranks", "3", "--engine", "zero2")
    code, out, _ = cli(
        "plan", "--preset", "pets", *options, "batch.effective=100", "batch.micro=64"
    )
    assert code == 0
    for part in ("1,000 through", "333 + 333 + 334", "6 of up to 56", "200", "0.0001", "MiB"):
        assert part in out
    assert list(tmp_path.iterdir()) == []


def test_plan_warns_of_full_batches(cli: Cli) -> None:
    code, out, _ = cli("plan", "--preset", "pets", "--images", "3680", "batch.effective=1024")
    assert code == 0
    assert "capped" in out
