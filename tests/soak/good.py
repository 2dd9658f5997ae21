"""Good inputs of every kind: tiny, and written by the program itself where it can."""

import contextlib
import io
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from analysis.cli import main as analysis
from bigbatch_ue.cli.commands import main
from bigbatch_ue.networks.backbone import create_network
from bigbatch_ue.networks.spec import NetworkSpec
from bigbatch_ue.training.step_log import StepLog
from tests.soak.damage import places

_NET = {"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]}
SETTINGS: MappingProxyType[str, Any] = MappingProxyType(
    {
        "data": {"name": "npz:set.npz", "size": 8, "root": "data"},
        "surrogate": {"model": "resnet18", "args": _NET, "weights": "random"},
        "clusters": {"count": 2, "n_init": 1},
        "generator": {"width": 4},
        "batch": {"effective": 4},
        "budget": {"kind": "steps", "steps": 4},
        "noise": {"every": 0},
        "checkpoint": {"every": 1},
        "compute": {"precision": "float32"},
        "target": {"args": _NET, "fit": {"epochs": 1, "batch": 8}},
        "evaluation": {"seeds": [0], "arms": ["clean", "uc"], "fractions": [1.0]},
    }
)
CLASSES = ("cat", "dog")
_STOPPED_AT = 3


def command(arguments: Sequence[str]) -> tuple[int, str]:
    """Run a command of the program or of `analysis` here; return its exit code and stderr."""
    first, *rest = arguments
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(io.StringIO()):
        try:
            analysis(rest) if first == "analysis" else main(arguments)
        except SystemExit as stop:
            return int(stop.code or 0), stderr.getvalue()
    return 0, stderr.getvalue()


def make(folder: Path) -> None:
    """Fill `folder` with configurations, data sets, weights, and finished and stopped runs."""
    folder.mkdir(parents=True)
    with contextlib.chdir(folder):
        _npz(Path("set.npz"))
        _npz(Path("theirs.npz"), change=3)
        _images(Path("images"))
        _images(Path("pictures"), change=3)
        shutil.rmtree("pictures/test")
        _weights()
        pictures = {**SETTINGS["data"], "name": "folder:images"}
        for name, more in {
            "config": {},
            "folder": {"data": pictures},
            "weights": {"surrogate": {**SETTINGS["surrogate"], "weights": "file:weights.pt"}},
            "done": {},
            "drawn": {"data": pictures},
            "stopped": {},
        }.items():
            settings = {**SETTINGS, "output": f"runs/{name}", **more}
            Path(f"{name}.yaml").write_text(yaml.safe_dump(settings))
        _stop(["train", "--config", "stopped.yaml"])
        for arguments in (
            ["train", "--config", "done.yaml"],
            ["train", "--config", "drawn.yaml"],
            ["evaluate", "runs/done"],
            ["evaluate", "runs/drawn"],
            ["protect", "runs/drawn"],
            ["analysis", "collect", "runs"],
        ):
            code, said = command(arguments)
            assert code == 0, said


def _npz(path: Path, change: int = 0) -> None:
    random = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 16), ("test", 8)):
        images = random.integers(200, size=(count, 8, 8), dtype=np.uint8)
        arrays[f"{part}_images"] = images + np.uint8(change)
        arrays[f"{part}_labels"] = (np.arange(count, dtype=np.uint8) % 2)[:, None]
    np.savez_compressed(path, allow_pickle=False, **arrays)


def _images(folder: Path, change: int = 0) -> None:
    random = np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 3)):
        for name in CLASSES:
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(200, size=(9, 8, 3), dtype=np.uint8) + np.uint8(change)
                Image.fromarray(pixels).save(folder / part / name / f"{number}.png")


def _weights() -> None:
    state = create_network(NetworkSpec("resnet18", 1, 8, _NET), 0).state_dict()
    save_file(state, "weights.safetensors")
    torch.save(state, "weights.pt")


def _stop(arguments: Sequence[str]) -> None:
    """Train, and press Ctrl-C in the middle."""
    step_of_log = StepLog.step

    def step(log: StepLog, number: int, *rest: Any) -> None:
        if number == _STOPPED_AT:
            raise KeyboardInterrupt
        step_of_log(log, number, *rest)

    StepLog.step = step  # type: ignore[assignment, method-assign]
    try:
        code, said = command(arguments)
    finally:
        StepLog.step = step_of_log  # type: ignore[method-assign]
    assert code == 130, said


def copy(good: Path, to: Path) -> None:
    """Replace `to` by a fresh copy of the good inputs, with the times of the files."""
    if os.path.lexists(to):
        shutil.rmtree(to)
    shutil.copytree(good, to, symlinks=True)


class Found(NamedTuple):
    """Good inputs whose names the program has chosen, relative to the folder.

    Attributes:
        args: index of the surrogate's arguments among all values of `config.yaml`.
        checkpoints: of the stopped run.
        decoded: files of the decoded images.
        targets: records of finished arms.
    """

    args: int
    checkpoints: list[str]
    decoded: list[str]
    targets: list[str]


def found(folder: Path) -> Found:
    """Find what `make` has put into `folder`."""

    def like(pattern: str) -> list[str]:
        return sorted(p.relative_to(folder).as_posix() for p in folder.glob(pattern))

    decoded = [*like("data/decoded/npz-*/*.npy"), *like("data/decoded/npz-*/*.json")]
    checkpoints = like("runs/stopped/checkpoints/*.safetensors")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    values = [held[key] for held, key in places({"": config})]
    return Found(values.index(_NET), checkpoints, decoded, like("data/targets/*.json"))
