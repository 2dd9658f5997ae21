"""Measurements: real steps of every path, with the facts that a table of them needs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bigbatch_ue.benchmark.baseline import JpegFiles, baseline_step, unfreeze
from bigbatch_ue.benchmark.session import RECORDS
from bigbatch_ue.cli.commands import main
from bigbatch_ue.config.sections import ObjectiveConfig
from bigbatch_ue.runtime.accelerator import start_accelerator
from bigbatch_ue.runtime.device import device_name
from bigbatch_ue.training.objective import ClusterwiseLoss
from tests.helpers.command_line import Cli, cli_of
from tests.helpers.trainer import CLUSTERS, Trainer

TINY = (
    "data.size=8",
    "clusters.count=2",
    "surrogate.args={channels: [8, 8, 16, 16], layers: [1, 1, 1, 1]}",
    "generator.width=4",
)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return cli_of(main, capsys)


def records_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / RECORDS).read_text().splitlines()]


def test_every_path_is_measured_in_turn(cli: Cli, tmp_path: Path) -> None:
    sizes = ("--batch", "6", "--micro", "4", "--rounds", "2", "target.fit.batch=16")
    code, out, err = cli("bench", "--preset", "digits", *TINY, *sizes, "--out", tmp_path)
    assert (code, err.count("error")) == (0, 0)
    assert f"next: python -m analysis scaling {tmp_path}" in out
    records = records_of(tmp_path)
    turns = [(r["round"], r["path"]) for r in records]
    order = ("delta", "engine", "baseline", "target")
    assert turns == [(n, path) for n in range(2) for path in order]
    assert len({r["session"] for r in records}) == 1
    targets = [r for r in records if r["path"] == "target"]
    for record in targets:
        assert record["effective_batch"] == record["micro_batch"] == record["images"] == 16
        assert record["timed_images"] == 64
        assert record["step_s"] == pytest.approx(16 / record["images_per_s"])
        assert 0 < record["model_flops"] < record["peak_flops"] * record["step_s"]
        assert record["bytes_per_step"] == 0
    records = [r for r in records if r not in targets]
    for record in records:
        assert record["engine"] == "single"
        assert record["device"] == device_name(torch.device("cpu"))
        assert record["images"] == record["timed_images"] == 2 * 6
        assert record["micro_batch"] <= 4
        assert record["bytes_per_step"] == 0
        assert record["step_s"] == pytest.approx(record["images"] / record["images_per_s"])
        assert record["model_flops"] < record["peak_flops"] * record["step_s"]
        assert record["peak_memory_mib"] > 100
    assert {r["precision"] for r in records if r["path"] == "baseline"} == {"float32"}


def test_long_steps_are_timed_in_part_and_scaled(cli: Cli, tmp_path: Path) -> None:
    sizes = ("--batch", "40", "--micro", "5", "--rounds", "1", "--at-most", "2")
    assert cli("bench", "--preset", "digits", *TINY, *sizes, "--out", tmp_path)[0] == 0
    delta, engine, baseline, _ = records_of(tmp_path)
    assert delta["timed_images"] == delta["images"] == 80
    assert engine["timed_images"] == baseline["timed_images"] == 10
    assert engine["images"] == baseline["images"] == 80
    assert engine["step_s"] == pytest.approx(80 / engine["images_per_s"])


def test_memory_does_not_depend_on_the_batch(tmp_path: Path) -> None:
    """Peak resident memory at B = 32,768 and at a micro-batch, in a process of its own.

    The bound is less than one float32 copy of the images, 16 MiB beside some 810.
    """
    command = [sys.executable, "-m", "bigbatch_ue", "bench", "--preset", "digits", *TINY]
    sizes = ["--batch", "64", "--batch", "32768", "--micro", "128", "--rounds", "1"]
    done = subprocess.run(
        [*command, *sizes, "--path", "delta", "--out", str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    small, large = records_of(tmp_path)
    assert (small["images"], large["images"]) == (128, 65_536)
    assert small["micro_batch"] == large["micro_batch"] == 128
    assert large["peak_memory_mib"] < 1.019 * small["peak_memory_mib"]


def test_bad_sizes_are_one_line(cli: Cli, tmp_path: Path) -> None:
    for wrong in (("--micro", "0"), ("--micro", "all"), ("--batch", "0"), ("--path", "fast")):
        code, _, err = cli("bench", *TINY, *wrong, "--out", tmp_path / "none")
        assert code == 2
        assert err.startswith("error: ")
        assert err.count("\n") == 1
    assert not (tmp_path / "none").exists()


def test_the_baseline_takes_the_same_gradient_step() -> None:
    """The baseline is slower, but computes the same: with SGD, its step is the program's own."""
    trainer = Trainer(start_accelerator(), "40x17-delta-sgd-1")
    random = np.random.default_rng(0)
    smooth = random.integers(256, size=(120, 3, 1, 1), dtype=np.uint8)
    trainer.job.loader.images = np.ascontiguousarray(np.broadcast_to(smooth, (120, 3, 16, 16)))
    engine = trainer.engine()
    trainer.train(engine, 0, 1)
    bank = trainer.engine().bank
    before = [p.detach().clone() for p in bank.parameters()]
    files = JpegFiles(trainer.job.loader.images, torch.device("cpu"))
    own = trainer.job.loss
    loss = ClusterwiseLoss(unfreeze(own.surrogate), own.targets, ObjectiveConfig(), own.augment)
    optimizers = [torch.optim.SGD(g.parameters(), lr=1e2) for g in bank.generators]
    batch = trainer.batch()
    images = baseline_step(trainer.accelerator, bank, optimizers, loss, files, batch, 7)
    assert images == len(batch) == 40 * CLUSTERS
    moved, expected = (
        torch.cat([(p.detach() - b).flatten() for p, b in zip(new, before, strict=True)])
        for new in (bank.parameters(), engine.bank.parameters())
    )
    assert expected.norm() > 0
    assert (moved - expected).norm() < 0.1 * expected.norm(), "JPEG changes colours by a level"
