import shutil
from pathlib import Path

import pytest

from tests.helpers.runs import make_evaluated_run


@pytest.fixture(scope="session")
def evaluated_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was trained and evaluated once for all tests."""
    return make_evaluated_run(tmp_path_factory.mktemp("collect"), "run")


@pytest.fixture
def run(evaluated_run: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may change."""
    return Path(shutil.copytree(evaluated_run, tmp_path / "runs" / "run"))
