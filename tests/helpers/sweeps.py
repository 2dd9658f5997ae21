"""Sweep files of tiny runs."""

from pathlib import Path
from typing import Any

import yaml

TINY = {
    "data": {"size": 8, "limit": 120},
    "clusters": {"count": 3, "n_init": 1},
    "surrogate": {
        "args": {"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]},
        "weights": "random",
    },
    "generator": {"width": 4},
    "augment": {"pad": 1},
    "budget": {"steps": 4, "epochs": 1},
    "checkpoint": {"every": 2},
    "target": {
        "args": {"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]},
        "fit": {"epochs": 2},
    },
}


def write(folder: Path, **changed: Any) -> Path:
    """A sweep of four cells, two sizes by two seeds."""
    content: dict[str, Any] = {
        "output": str(folder / "sweep"),
        "datasets": ["digits"],
        "batches": [4, 16],
        "seeds": [0, 1],
        "budgets": ["steps"],
        "settings": {**TINY, "data": {**TINY["data"], "root": str(folder / "data")}},
    }
    path = folder / "sweep.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content | changed))
    return path


def write_one_long_cell(folder: Path, **changed: Any) -> Path:
    """Write a sweep of one cell, whose training writes no checkpoint before it is stopped."""
    settings = {**TINY, "budget": {"steps": 100}, "checkpoint": {"every": 1000}}
    settings["data"] = {**TINY["data"], "root": str(folder / "data")}
    return write(folder, batches=[4], seeds=[0], protect=False, settings=settings, **changed)
