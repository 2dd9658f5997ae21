"""The files of an analysis: `findings.json` and `fits.csv`."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.findings.findings import Finding, Findings
from analysis.findings.sentences import KINDS, recommendation, together_statement
from analysis.fits.together import Together
from analysis.table.table import CRITICAL_COLUMNS, CURVE_COLUMNS
from bigbatch_ue.files.atomic import atomic_file
from bigbatch_ue.files.formats import write_json

FINDINGS = "findings.json"
FITS = "fits.csv"
_NUMBERS = (
    "flat_p",
    "adjusted_p",
    "valley_p",
    "adjusted_valley_p",
    "difference",
    "detectable",
    "optimum",
    "lowest",
    "best",
)


def write_findings(findings: Findings, folder: Path) -> None:
    """Write `findings.json`, and `fits.csv` with a row for every fitted curve."""
    content = _json_value(findings)
    curves = [finding.curve for finding in findings.findings]
    for record, finding in zip(content["findings"], findings.findings, strict=True):
        record["title"] = finding.curve.title
        record["critical"] = _json_value(finding.curve.predicted)
        record["recommendation"] = recommendation(finding, curves)
        if finding.mean:
            record["mean"]["verdict"] = finding.mean.verdict
        _add_shapes(record, finding)
    for record, separation in zip(content["separations"], findings.separations, strict=True):
        record["statement"] = separation.statement
    for record, together in zip(content["together"], findings.together, strict=True):
        record["statement"] = together_statement(together)
        _add_shapes(record, together)
    write_json(folder / FINDINGS, content)
    with atomic_file(folder / FITS) as temporary:
        pd.DataFrame(_fit_rows(findings)).to_csv(temporary, index=False)


def _add_shapes(record: dict[str, Any], found: Finding | Together) -> None:
    for kind in KINDS:
        if fit := found.instability(kind):
            record[kind]["shape"] = fit.shape


def _fit_rows(findings: Findings) -> Iterator[dict[str, Any]]:
    for finding in findings.findings:
        mean, predicted = finding.mean, finding.curve.predicted
        ends = (predicted.value, predicted.low, predicted.high) if predicted else ()
        if mean:
            yield {
                **dict(zip(CURVE_COLUMNS, finding.curve.key, strict=True)),
                "verdict": mean.verdict,
                **{name: getattr(mean, name) for name in _NUMBERS},
                "interval_low": mean.interval[0],
                "interval_high": mean.interval[1],
                "best_low": mean.best_interval[0],
                "best_high": mean.best_interval[1],
                **dict(zip(CRITICAL_COLUMNS, ends, strict=False)),
            }


def _json_value(value: Any) -> Any:
    """Convert `value` to JSON's types; numbers that JSON lacks become None."""
    if is_dataclass(value):
        return {field.name: _json_value(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _json_value(value.tolist())
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
