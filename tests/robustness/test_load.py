"""Many images and many runs, fewer than in `make soak`: bounded memory, and every run is read."""

import sys
from pathlib import Path

import numpy as np
import pytest

from analysis.table.collect import collect
from tests.helpers.runs import make_evaluated_run
from tests.soak.load import (
    SIZE,
    anonymous_peaks,
    record_runs,
    run_of,
    train_command,
    write_npz,
    write_shards,
)

FEW, MANY = 10_000, 60_000
PER_IMAGE = 420
"""Bytes of anonymous memory for each more image: names, indices and features, not its pixels."""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", ["npz", "shards"])
def test_memory_does_not_hold_the_images(kind: str, tmp_path: Path) -> None:
    suffix, write = (".npz", write_npz) if kind == "npz" else ("", write_shards)
    few, many = tmp_path / f"few{suffix}", tmp_path / f"many{suffix}"
    write(few, FEW)
    write(many, MANY)
    program = "from bigbatch_ue.cli.commands import main"
    script = f"{program}\nfor c in {list(map(train_command, (few, many)))}: "
    finished = run_of(few) / "result.json"
    peaks = anonymous_peaks(
        ["-c", f"{script}main(c)"], lambda: "many" if finished.exists() else "few"
    )
    assert (run_of(many) / "result.json").exists()
    assert PER_IMAGE < SIZE**2
    assert peaks["many"] - peaks["few"] < PER_IMAGE * (MANY - FEW) / 2**20


def test_two_hundred_runs_are_two_hundred_rows(tmp_path: Path) -> None:
    once = ("evaluation.seeds=[0]", "evaluation.fractions=[1.0]", "evaluation.arms=[uc]")
    real = make_evaluated_run(tmp_path, "real", "budget.kind=steps", "budget.steps=6", *once)
    record_runs(real, tmp_path / "runs", 200)
    collection = collect([tmp_path / "runs"])
    assert collection.problems == ()
    table = collection.table
    assert len(table) == 200
    assert len(table[["effective_batch", "seed"]].drop_duplicates()) == 200
    assert np.isfinite(table["final_accuracy"]).all()
