"""Train images that another program has perturbed, matched with their clean originals."""

import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from bigbatch_ue.config.sections import TakeConfig
from bigbatch_ue.data.decoded import DataSet
from bigbatch_ue.data.decoding import resize
from bigbatch_ue.data.encoded import EncodedImages, files_of_parts
from bigbatch_ue.data.inventory import find_images
from bigbatch_ue.data.npz import Npz
from bigbatch_ue.data.parquet import SUFFIX, open_parquet
from bigbatch_ue.data.shards import find_shards
from bigbatch_ue.data.source import PARTS, Labels, Part, Pixels
from bigbatch_ue.data.tars import TAR, open_tars
from bigbatch_ue.evaluation.resemblance import resembles_original
from bigbatch_ue.files.paths import composed, expand_path
from bigbatch_ue.protection.packed_writers import png_suffix
from bigbatch_ue.protection.writers import png_names
from bigbatch_ue.reporting.words import counted
from bigbatch_ue.runtime.console import note
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.progress import progress

_PACKED = {"parquet": SUFFIX, "wds": TAR}
"""Suffix of the files of each kind that packs many images into one."""


def load_external_images(location: str, clean: DataSet, take: TakeConfig) -> Pixels:
    """Load the perturbed version of each image of `clean.train`.

    Args:
        location: `parquet:PATH` or `wds:PATTERN`, with the train images in the order of the clean
            ones. `folder:PATH` or only PATH, with `train/<class>/<name>` or `<class>/<name>`; names
            are those of the clean images, or those that `bigbatch-ue protect` writes, with any
            suffix. Or `npz:PATH` or only PATH, with `train_images` in the order of the clean ones,
            as in MedMNIST's files, and perhaps `train_labels`.
        clean: the original; with a limit, there may be perturbed images beyond it.
        take: what is taken of Parquet files and tar shards; an image in these may have become PNG.

    Returns:
        uint8 [N, C, H, W] in memory, in the order and at the size of `clean.train`.

    Raises:
        UserError: images are missing, superfluous, duplicate, unreadable, of another kind, in
            another order, not perturbed, or no versions of the clean ones.
    """
    path = external_path(location, take)
    kind, _, place = location.partition(":")
    if kind in _PACKED:
        images = _read_packed(kind, place, clean, take)
    else:
        images = (_read_folder if path.is_dir() else _read_npz)(path, clean)
    originals = clean.train.images
    count, channels, _, size = originals.shape
    perturbed = np.empty(originals.shape, np.uint8)
    with progress(f"reading {path.name}", "images", count) as stage:
        for index, image in enumerate(stage.track(images)):
            perturbed[index] = resize(_match_channels(image, channels, path), size)
    if np.array_equal(perturbed, originals):
        raise UserError(
            f"{path}: the images are identical to the clean ones; give the perturbed ones"
        )
    _refuse_other_images(path, perturbed, clean)
    return perturbed


def _refuse_other_images(path: Path, perturbed: Pixels, clean: DataSet) -> None:
    """Refuse images most of which resemble another clean image more than their own original."""
    resembling = resembles_original(perturbed, clean.train)
    compared, other = len(resembling), np.count_nonzero(~resembling)
    if other > compared / 2:
        raise UserError(
            f"{path}: {other} of {compared} compared images resemble another clean image of their "
            "class more than their own, as in another order or another share of the set; put the "
            "perturbed version of each clean image in its place"
        )


def _match_channels(image: Pixels, channels: int, path: Path) -> Pixels:
    """Convert `image` to [`channels`, h, w] if that is lossless: grey may be saved as RGB."""
    if len(image) < channels:
        return np.repeat(image, channels, axis=0)
    if not (image[channels:] == image[:1]).all():
        raise UserError(
            f"{path}: contains colour images, but the clean ones are grey; save them as grey"
        )
    return image[:channels]


def external_path(location: str, take: TakeConfig) -> Path:
    """Return the existing folder or npz file at `location`, or the folder of its shards.

    Raises:
        UserError: there is none.
    """
    kind, colon, rest = location.partition(":")
    if rest and kind in _PACKED:
        return find_shards(rest, _PACKED[kind], take, ["train"]).top
    if colon and kind in ("folder", "npz"):
        path = expand_path(rest)
        if not rest or not (path.is_dir() if kind == "folder" else path.is_file()):
            missing = "folder" if kind == "folder" else "file"
            raise UserError(f"{path}: no such {missing}; give folder:PATH or npz:PATH")
        return path
    path = expand_path(location)
    if not (path.is_dir() or (path.is_file() and path.suffix == ".npz")):
        raise UserError(f"{path}: no such folder or .npz file; give folder:PATH or npz:PATH")
    return path


def _read_folder(path: Path, clean: DataSet) -> Iterator[Pixels]:
    """Return the images of a folder in the order of the clean images."""
    top = path / "train" if (path / "train").is_dir() else path
    names = png_names(clean.train.names, clean.train.labels, clean.classes)
    files, extra = _match_files(top, names, clean.train.names)
    missing = [_without_suffix(name) for index, name in enumerate(names) if index not in files]
    if missing:
        raise UserError(
            f"{top}: {len(missing):,} of {counted(len(names), 'train image')} missing, such as "
            f"{missing[0]}; give each perturbed image the class folder and name of its original"
        )
    if extra and not clean.beyond_limit:
        first = extra[0].relative_to(top).as_posix()
        count = f"{len(extra):,} of {counted(len(extra) + len(files), 'image')}"
        raise UserError(f"{top}: {count} without a clean original, such as {first}; remove them")
    _say_left_out(top, len(extra))
    samples = [(files[index], int(label)) for index, label in enumerate(clean.train.labels)]
    parts: dict[Part, list[tuple[Path, int]]] = {"train": samples, "test": []}
    source = files_of_parts(clean.classes, dict.fromkeys(PARTS, top), parts, top)
    return source.split("train").images()


def _say_left_out(path: Path, count: int) -> None:
    if count:
        note(f"{path}: {counted(count, 'image')} beyond data.limit left out")


def _match_files(
    top: Path, names: list[str], originals: list[str]
) -> tuple[dict[int, Path], list[Path]]:
    """Find the file of each clean image, by the image's index, and the files that belong to none.

    A file belongs to the image with its own name, or else to that with its name without suffix,
    whatever form of Unicode they are written in.

    Args:
        top: folder of the perturbed images.
        names: the result of `png_names`.
        originals: the names that `png_names` was given.
    """
    exact = {
        composed(str(PurePosixPath(name).with_name(PurePosixPath(original).name))): index
        for index, (name, original) in enumerate(zip(names, originals, strict=True))
    }
    by_stem = {_without_suffix(name): index for index, name in enumerate(names)}
    files: dict[int, Path] = {}
    extra: list[Path] = []
    for file in find_images(top, inside=top):
        name = composed(file.relative_to(top).as_posix())
        index = exact.get(name, by_stem.get(_without_suffix(name)))
        if index is None:
            extra.append(file)
        elif index in files:
            raise UserError(f"{file}: {files[index].name} is the same image; keep one of them")
        else:
            files[index] = file
    return files, extra


def _without_suffix(name: str) -> str:
    return composed(str(PurePosixPath(name).with_suffix("")))


def _read_npz(path: Path, clean: DataSet) -> Iterator[Pixels]:
    """Return the train images of an npz file, or those within the limit of the clean set."""
    source = Npz(path)
    count, *_ = source.shape("train")
    indices = _indices_in_order(path, count, clean)
    if _has_labels(path):
        _require_labels(path, source.split("train").labels[indices], clean, "'train_labels'")
    return source.images("train", indices)


def _read_packed(kind: str, place: str, clean: DataSet, take: TakeConfig) -> Iterator[Pixels]:
    """Return the train images of Parquet files or tar shards, or those within the limit."""
    source: EncodedImages
    if kind == "wds":
        if take.image is not None:
            take = take.model_copy(update={"image": png_suffix(take.image)})
        source = open_tars(place, take, ["train"])
    else:
        source = open_parquet(place, take, ["train"])
    split = source.split("train")
    indices = _indices_in_order(source.top, len(split.names), clean)
    _require_labels(source.top, split.labels[indices], clean, "the labels")
    return split.decode(indices)


def _indices_in_order(path: Path, count: int, clean: DataSet) -> Labels:
    """Return which of `count` perturbed images, in the order of the clean ones, are those taken."""
    taken = len(clean.train)
    if count not in (taken, clean.available):
        within = f" ({taken:,} within data.limit)" if clean.beyond_limit else ""
        raise UserError(
            f"{path}: contains {counted(count, 'train image')}, but the clean set "
            f"{clean.available:,}{within}; give one for each clean image"
        )
    _say_left_out(path, count - taken)
    return clean.train.positions if count == clean.available else np.arange(count)


def _require_labels(path: Path, labels: Labels, clean: DataSet, what: str) -> None:
    if not np.array_equal(labels, clean.train.labels):
        raise UserError(
            f"{path}: {what} differ from the clean ones, so the order differs; "
            "put the images in the order of the clean ones"
        )


def _has_labels(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:  # `Npz.shape` has already checked the file
        return "train_labels.npy" in archive.namelist()
