"""Every engine on a GPU gives what one process gives on a CPU: `make gpu`.

The losses of that process are kept in `losses.json`, which every `make test` compares with a CPU's.

Each run takes 20 steps of SGD in float32 (TF32 off), so that only rounding differs. From one kind
of device to another, the training amplifies it: losses are compared there, and perturbations
between engines on the GPU.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bigbatch_ue.launching.engines import ENGINES

GOLDEN = Path(__file__).with_name("losses.json")
RESULTS = Path(os.environ.get("GPU_RESULTS", "runs/gpu"))
SETTINGS = (
    "data.size=16",
    "data.limit=600",
    "surrogate.args={channels: [16, 32, 64, 128]}",
    "surrogate.weights=random",
    "generator.width=8",
    "batch.effective=48",
    "batch.micro=100",
    "budget.steps=20",
    "optimizer.name=sgd",
    "optimizer.lr=1",
    "objective.name=cross_entropy",
    "objective.temperature=0.1",
    "compute.precision=float32",
    "compute.tf32=false",
    "compute.compile=off",
)
OTHERS: dict[str, tuple[str, ...]] = {
    "compiled": ("compute.compile=on",),
    "graphs": ("compute.compile=graphs",),
    "bf16": ("compute.precision=bf16",),
    "tf32": ("compute.tf32=true",),
    "host": ("compute.images=host",),
    "engine-path": ("batch.accumulation=engine",),
}
"""Runs of one process that differ in what should not change the result beyond rounding."""
LOOSE = {"bf16": 0.05, "tf32": 0.01}
"""Relative difference of losses that rounding to fewer bits may cause."""


def command(folder: Path, name: str, *own: str) -> list[str]:
    places = [f"data.root={folder / 'data'}", f"output={folder / name}"]
    return ["train", "--preset", "digits", *SETTINGS, *places, *own]


def start(*arguments: str, **own: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "bigbatch_ue", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **own},
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(processes: Mapping[str, "subprocess.Popen[str]"]) -> dict[str, str]:
    """Wait for all, and return what those that failed say."""
    said = {name: process.communicate()[1] for name, process in processes.items()}
    return {name: said[name] for name, each in processes.items() if each.returncode}


def losses(run: Path) -> torch.Tensor:
    """Loss of each generator in each step [T, p]."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return torch.tensor([json.loads(line)["loss"] for line in lines])


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float(((ours - theirs).abs() / theirs.abs()).max())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs, with the one on the CPU."""
    folder = tmp_path_factory.mktemp("gpu")
    process = start(*command(folder, "cpu"), CUDA_VISIBLE_DEVICES="")
    assert finish({"cpu": process}) == {}
    return folder


@pytest.fixture(scope="module")
def runs(folder: Path) -> Path:
    """All runs, side by side on the one GPU, after the one on the CPU."""
    assert torch.cuda.is_available(), "these tests need a GPU"
    started = {
        engine: start("launch", engine, "--ranks", "1", "--", *command(folder, engine))
        for engine in ENGINES
    }
    started |= {name: start(*command(folder, name, *own)) for name, own in OTHERS.items()}
    failed = finish(started)
    (folder / "failed.json").write_text(json.dumps(failed))
    RESULTS.mkdir(parents=True, exist_ok=True)
    curves = {
        path.parent.name: losses(path.parent).mean(1).tolist()
        for path in sorted(folder.glob("*/result.json"))
    }
    (RESULTS / "losses.json").write_text(json.dumps(curves, indent=1) + "\n")
    return folder


def check_finished(runs: Path, name: str) -> None:
    said = json.loads((runs / "failed.json").read_text())
    assert name not in said, said[name]


def expected_engine(engine: str) -> str:
    """What one rank of an engine is called: DDP wraps nothing there."""
    return "single" if engine == "ddp" else engine.removesuffix("_offload")


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ENGINES)
def test_invariant_1_an_engine_on_a_gpu_gives_what_a_cpu_gives(engine: str, runs: Path) -> None:
    check_finished(runs, engine)
    result = json.loads((runs / engine / "result.json").read_text())
    assert result["engine"] == expected_engine(engine)
    assert difference(losses(runs / engine), losses(runs / "cpu")) < 1e-3
    ours, theirs = (
        load_file(runs / name / "perturbations.safetensors")["perturbations"]
        for name in (engine, "single")
    )
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-4


@pytest.mark.gpu
@pytest.mark.parametrize("name", OTHERS)
def test_a_way_of_computing_changes_the_result_by_rounding_alone(name: str, runs: Path) -> None:
    check_finished(runs, name)
    assert difference(losses(runs / name), losses(runs / "cpu")) < LOOSE.get(name, 1e-3)


def check_kept(run: Path) -> None:
    kept = torch.tensor(json.loads(GOLDEN.read_text()))
    assert difference(losses(run).mean(1), kept) < 1e-2


def test_losses_that_are_kept_are_those_of_a_cpu(folder: Path) -> None:
    check_kept(folder / "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ENGINES)
def test_losses_of_an_engine_are_those_that_are_kept(engine: str, runs: Path) -> None:
    check_finished(runs, engine)
    check_kept(runs / engine)


@pytest.mark.gpu
def test_a_run_on_a_gpu_resumes_to_the_undisturbed_one(runs: Path) -> None:
    halves = command(runs, "resumed", "--resume")
    stopped = start(*halves, "--time-limit", "0")
    stopped.communicate()
    assert stopped.returncode == 75
    assert finish({"resumed": start(*halves)}) == {}
    assert json.loads((runs / "resumed" / "result.json").read_text())["resumed_at"] > 0
    assert difference(losses(runs / "resumed"), losses(runs / "single")) < 1e-4
