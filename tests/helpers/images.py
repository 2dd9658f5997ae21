"""Image files: made for a test, or read by one."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def make_images(folder: Path, sizes: list[tuple[int, int]], mode: str = "RGB") -> Path:
    """A folder source of two classes, with an image of each size in both splits and classes."""
    random = np.random.default_rng(1)
    for part in ("train", "test"):
        for label in ("cat", "dog"):
            place = folder / part / label
            place.mkdir(parents=True)
            for index, (height, width) in enumerate(sizes):
                shape = (height, width) if mode == "L" else (height, width, 3)
                pixels = random.integers(256, size=shape, dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"image{index}.png")
    return folder


def mtimes(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def npz_train_images(folder: Path) -> NDArray[np.uint8]:
    """The train images of the one npz file in `folder`."""
    (file,) = folder.glob("*.npz")
    with np.load(file, allow_pickle=False) as arrays:
        images: NDArray[np.uint8] = arrays["train_images"]
    return images
