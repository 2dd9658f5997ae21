"""Sources of images: made, opened and read by tests."""

from pathlib import Path
from typing import Any

from PIL import Image

from bigbatch_ue.config.sections import DataConfig
from bigbatch_ue.data.datasets import open_source
from bigbatch_ue.data.source import Part, Pixels, Source

PHOTO = Image.effect_noise((40, 30), 80).convert("RGB")


def opened(name: str, root: Path, size: int = 28, *, download: bool = False) -> Source:
    return open_source(DataConfig(name=name, root=root, size=size), download)


def images(source: Source, part: Part = "train") -> list[Pixels]:
    return list(source.split(part).images())


def save(path: Path, image: Image.Image, kind: str | None = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, kind, **options)
    return path
