"""Tables of a sweep for the terminal."""

from pathlib import Path

import pytest

from bigbatch_ue.cli.commands import main
from bigbatch_ue.sweeps.cells import sweep_cells
from bigbatch_ue.sweeps.spec import load_sweep
from tests.helpers.sweeps import write


def test_dry_run_lists_cells_with_their_times_and_does_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path)
    main(["sweep", "--config", str(config), "--dry-run"])
    printed = capsys.readouterr().out
    for cell in sweep_cells(load_sweep(config)):
        assert cell.name in printed
    assert printed.count("to do") == 4
    assert "what it can find: nothing; an effect of B needs at least 3 sizes" in printed
    assert not (tmp_path / "sweep").exists()
