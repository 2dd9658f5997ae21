import pandas as pd
import pytest

from analysis.findings.findings import Findings, analyse
from tests.helpers.findings import a_measured_table, a_table


@pytest.fixture(scope="session")
def table() -> pd.DataFrame:
    return a_table()


@pytest.fixture(scope="session")
def findings(table: pd.DataFrame) -> Findings:
    return analyse(table, draws=200)


@pytest.fixture(scope="session")
def measured_table() -> pd.DataFrame:
    """A table with predicted critical batches."""
    return a_measured_table()


@pytest.fixture(scope="session")
def measured_findings(measured_table: pd.DataFrame) -> Findings:
    return analyse(measured_table, draws=500)
