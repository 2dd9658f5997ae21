import gc
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

MakeNpz = Callable[..., Path]

DEAR = ("distributed", "sweeps", "robustness", "repository", "evaluation", "analysis")
"""Folders whose tests start processes or fit many curves."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the dear tests, so that no worker is left alone with them at the end."""
    items.sort(key=lambda item: not set(DEAR) & set(item.path.parts))


def pytest_collection_finish() -> None:
    """Spare the collector what imports have made; the program collects garbage at each start."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_is_heard() -> None:
    """Hear SIGINT in all processes, as in a terminal; one that a script starts ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def shared_data() -> Path:
    """The folder of real images beside the checkout."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real images: {folder} is absent")
    return folder


@pytest.fixture
def make_npz(tmp_path: Path) -> MakeNpz:
    """Write a good npz file with MedMNIST's keys, but for the arrays given (None: left out)."""

    def make(name: str = "own.npz", channels: tuple[int, ...] = (), **changed: Any) -> Path:
        random = np.random.default_rng(0)
        arrays: dict[str, Any] = {}
        for part, count in (("train", 12), ("test", 6)):
            shape = (count, 10, 9, *channels)
            arrays[f"{part}_images"] = random.integers(256, size=shape, dtype=np.uint8)
            arrays[f"{part}_labels"] = np.arange(count, dtype=np.uint8)[:, None] % 3
        arrays |= changed
        path = tmp_path / name
        np.savez_compressed(path, **{k: v for k, v in arrays.items() if v is not None})
        return path

    return make
