"""The images of a folder in other forms, written by the libraries that users write them with."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import webdataset
from PIL import Image, ImageDraw

from bigbatch_ue.data.source import PARTS, Part
from tests.helpers.sources import PHOTO, save

CLASSES = ["cat", "dog"]


def difficult_folder(folder: Path) -> Path:
    """A folder source of pictures whose decoding is not plain: turned, deep, transparent, CMYK."""
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = PHOTO.convert("RGBA")
    ImageDraw.Draw(clear).rectangle((3, 3, 20, 20), fill=(1, 2, 3, 80))
    for part in PARTS:
        for label in CLASSES:
            place = folder / part / label
            save(place / f"{label}-0.jpg", PHOTO, exif=exif)
            save(place / f"{label}-1.png", Image.linear_gradient("L").resize((9, 7)))
            save(place / f"{label}-2.png", clear)
            save(place / f"{label}-3.jpg", PHOTO.convert("CMYK"))
            save(place / f"{label}-4.webp", PHOTO.resize((17, 11)), lossless=True)
            save(place / f"{label}-5.gif", PHOTO.convert("P"))
    return folder


def files_of(folder: Path, part: Part) -> Iterator[tuple[Path, int]]:
    """The images of a folder source in its order, with their labels."""
    for label, name in enumerate(CLASSES):
        yield from ((path, label) for path in sorted((folder / part / name).iterdir()))


def hugging_face(folder: Path, **more: Any) -> datasets.DatasetDict:
    """The images of a folder source as a data set of Hugging Face, with their bytes."""
    features = datasets.Features(
        {
            "image": datasets.Image(decode=False),
            "label": datasets.ClassLabel(names=CLASSES),
            "source": datasets.Value("string"),
        }
    )
    splits = {}
    for part in PARTS:
        rows = [
            {
                "image": {"bytes": path.read_bytes(), "path": path.name},
                "label": label,
                "source": f"of {path.name}",
            }
            for path, label in files_of(folder, part)
        ]
        table = datasets.Dataset.from_list(rows, features=features)
        splits[part] = table.cast_column("image", datasets.Image())
    return datasets.DatasetDict(splits)


def write_parquet(folder: Path, out: Path, test: str = "test", shards: int = 2) -> Path:
    """The images of a folder source as Parquet files, in the layout of the hub."""
    (out / "data").mkdir(parents=True)
    for part, split in hugging_face(folder).items():
        word = test if part == "test" else part
        for index in range(shards):
            shard = split.shard(shards, index, contiguous=True)
            shard.to_parquet(out / "data" / f"{word}-{index:05d}-of-{shards:05d}.parquet")
    return out


def write_tars(folder: Path, out: Path, test: str = "test", per_shard: int = 5) -> Path:
    """The images of a folder source as WebDataset shards, with another member in each sample."""
    out.mkdir(parents=True)
    for part in PARTS:
        word = test if part == "test" else part
        with webdataset.ShardWriter(f"{out}/{word}-%03d.tar", maxcount=per_shard, verbose=0) as tar:
            for path, label in files_of(folder, part):
                suffix = path.suffix[1:]
                sample = {"__key__": path.stem, suffix: path.read_bytes(), "cls": label}
                tar.write(sample | {"txt": f"of {path.name}"})
    (out / "classnames.txt").write_text("\n".join(CLASSES))
    return out
