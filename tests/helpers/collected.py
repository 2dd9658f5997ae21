"""Runs with changed records, and why `collect` leaves them out."""

from pathlib import Path
from typing import Any

from analysis.table.collect import collect
from bigbatch_ue.files.formats import read_json, write_json


def change_record(path: Path, **changed: Any) -> None:
    write_json(path, read_json(path) | changed)


def reason_left_out(run: Path) -> str:
    """Why the run, the only one in its folder, is not in the table."""
    collection = collect([run.parent])
    assert collection.table.empty
    (problem,) = collection.problems
    assert problem.run == run.name
    return problem.reason
