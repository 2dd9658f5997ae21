import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from analysis.findings.findings import Findings
from analysis.findings.outputs import write_findings
from analysis.findings.sentences import recommendation, together_statement
from analysis.table.table import CRITICAL_COLUMNS
from tests.helpers.findings import a_finding


def test_findings_are_written_as_strict_json_and_a_row_for_each_curve(
    tmp_path: Path, findings: Findings
) -> None:
    mixed = replace(findings, findings=(*findings.findings, a_finding()))
    write_findings(mixed, tmp_path)
    text = (tmp_path / "findings.json").read_text()
    content = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    *_, last = content["findings"]
    assert last["title"] == "digits, protected: equal steps"
    assert last["recommendation"] == recommendation(a_finding())
    assert last["mean"]["verdict"] == "effect"
    assert last["seeds"]["shape"] == last["oscillation"]["shape"] == "both ends"
    assert content["findings"][2]["curve"]["accuracy"][0][3] is None
    assert content["separations"][0]["statement"] == findings.separations[0].statement
    at_epochs, _ = content["together"]
    assert at_epochs["statement"] == together_statement(findings.together[0])
    assert at_epochs["datasets"] == ["blood8", "digits"]
    fit = findings.together[0].seeds
    assert fit is not None
    assert at_epochs["seeds"]["shape"] == fit.shape
    fits = pd.read_csv(tmp_path / "fits.csv")
    assert len(fits) == len(mixed.findings)
    row = fits.iloc[-1]
    assert row["verdict"] == "effect"
    assert row[["optimum", "interval_low", "interval_high", "lowest"]].tolist() == [
        63.7,
        32.2,
        127.6,
        64,
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["findings.json", "fits.csv"]


def test_files_contain_the_prediction(measured_findings: Findings, tmp_path: Path) -> None:
    write_findings(Findings((*measured_findings.findings, a_finding())), tmp_path)
    content = json.loads((tmp_path / "findings.json").read_text())
    _, record, bare = content["findings"]
    assert record["critical"] == {
        "value": 1280.0,
        "low": 320.0,
        "high": 5120.0,
        "runs": 20,
        "unbounded": 1,
    }
    assert record["curve"]["critical"][0] == [160.0, 320.0, 480.0, 640.0, 800.0]
    assert record["curve"]["critical"][3][4] is None
    assert bare["critical"] is None
    fits = pd.read_csv(tmp_path / "fits.csv")
    at_steps = fits.query("budget == 'steps'")[list(CRITICAL_COLUMNS)]
    assert at_steps.iloc[0].tolist() == [1280, 320, 5120]
    assert fits[list(CRITICAL_COLUMNS)].iloc[-1].isna().all()


def test_without_a_prediction_fits_have_no_columns_of_it(tmp_path: Path) -> None:
    write_findings(Findings((a_finding(),)), tmp_path)
    assert not set(CRITICAL_COLUMNS) & set(pd.read_csv(tmp_path / "fits.csv"))
