"""Train images that another program has perturbed, beside their clean originals."""

import zipfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np

from bigbatch_ue.config.sections import DataConfig
from bigbatch_ue.data.decoded import DataSet, resize
from bigbatch_ue.data.image_files import ImageFiles, find_images
from bigbatch_ue.data.npz import Npz
from bigbatch_ue.data.source import Pixels
from bigbatch_ue.files.paths import expand_path
from bigbatch_ue.protection.writers import png_names
from bigbatch_ue.runtime.console import progress_bar
from bigbatch_ue.runtime.errors import UserError


def load_external_images(place: str, clean: DataSet, config: DataConfig) -> Pixels:
    """The perturbed version of each image of `clean.train`.

    Args:
        place: `folder:PATH`, or only PATH, with `train/<class>/<name>` or `<class>/<name>`: names
            are those of the clean images, or those that `bigbatch-ue protect` gives, whatever the
            suffix. `npz:PATH`, or only PATH, with `train_images` in the order of the clean ones, as
            MedMNIST has them, and perhaps `train_labels`.
        clean: the original, from `prepare(config)`.
        config: with a `limit`, more images than the clean ones are no error.

    Returns:
        uint8 [N, C, H, W] in memory, in the order and at the size of `clean.train`.

    Raises:
        UserError: images that are missing, superfluous, there twice, unreadable, of another kind,
            in another order or unchanged.
    """
    path = _located(place)
    limited = config.limit is not None
    read = _from_folder if path.is_dir() else _from_npz
    images = read(path, clean, limited)
    originals = clean.train.images
    count, channels, _, size = originals.shape
    perturbed = np.empty(originals.shape, np.uint8)
    with progress_bar(transient=True) as progress:
        shown = progress.track(images, total=count, description=f"reading {path.name}")
        for index, image in enumerate(shown):
            perturbed[index] = resize(_with_channels(image, channels, path), size)
    if np.array_equal(perturbed, originals):
        reason = "not perturbed: its images are identical to the clean ones"
        raise UserError(f"{path}: {reason}; give the perturbed ones")
    return perturbed


def _with_channels(image: Pixels, channels: int, path: Path) -> Pixels:
    """`image` as [`channels`, h, w], if that loses nothing: grey may have been saved as RGB."""
    if len(image) < channels:
        return np.repeat(image, channels, axis=0)
    if not (image[channels:] == image[:1]).all():
        raise UserError(
            f"{path}: has colour images, but the clean ones are grey; save them as grey"
        )
    return image[:channels]


def _located(place: str) -> Path:
    """The folder or npz file that `place` means."""
    kind, colon, rest = place.partition(":")
    if colon and kind in ("folder", "npz"):
        path = expand_path(rest)
        if not rest or not (path.is_dir() if kind == "folder" else path.is_file()):
            what = "folder" if kind == "folder" else "file"
            raise UserError(f"{path}: no such {what}; give folder:PATH or npz:PATH")
        return path
    path = expand_path(place)
    if not (path.is_dir() or (path.is_file() and path.suffix == ".npz")):
        raise UserError(f"{path}: no such folder or .npz file; give folder:PATH or npz:PATH")
    return path


def _from_folder(path: Path, clean: DataSet, limited: bool) -> Iterator[Pixels]:
    """The images of a folder, in the order of the clean images."""
    top = path / "train" if (path / "train").is_dir() else path
    names = png_names(clean.train.names, clean.train.labels, clean.classes)
    found, extra = _matched(top, names, clean.train.names)
    missing = [_stem(name) for index, name in enumerate(names) if index not in found]
    if missing:
        raise UserError(
            f"{top}: {len(missing):,} of {len(names):,} train images are missing, such as "
            f"{missing[0]}; a perturbed image has the class folder and name of its original"
        )
    if extra and not limited:
        first = extra[0].relative_to(top).as_posix()
        count = f"{len(extra):,} of {len(extra) + len(found):,} images"
        raise UserError(f"{top}: {count} have no clean original, such as {first}; remove them")
    samples = [(found[index], int(label)) for index, label in enumerate(clean.train.labels)]
    source = ImageFiles(clean.classes, {"train": top}, {"train": samples, "test": []})
    return source.split("train").images()


def _matched(
    top: Path, names: list[str], originals: list[str]
) -> tuple[dict[int, Path], list[Path]]:
    """The file of each clean image, by the image's index, and the files that belong to none.

    A file belongs to the image of its own name, or else to that of its name without suffix; `names`
    are those of `png_names`, `originals` what it was given.
    """
    exact = {
        str(PurePosixPath(name).with_name(PurePosixPath(original).name)): index
        for index, (name, original) in enumerate(zip(names, originals, strict=True))
    }
    stems = {_stem(name): index for index, name in enumerate(names)}
    found: dict[int, Path] = {}
    extra: list[Path] = []
    for file in find_images(top, inside=top):
        name = file.relative_to(top).as_posix()
        index = exact.get(name, stems.get(_stem(name)))
        if index is None:
            extra.append(file)
        elif index in found:
            raise UserError(f"{file}: {found[index].name} is there too; keep one of them")
        else:
            found[index] = file
    return found, extra


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _from_npz(path: Path, clean: DataSet, limited: bool) -> Iterator[Pixels]:
    """The train images of an npz file, as many as there are clean ones."""
    count, source = len(clean.train), Npz(path)
    there, *_ = source.shape("train")
    if there < count or (there > count and not limited):
        found = f"holds {there:,} train images, the clean set {count:,}"
        raise UserError(f"{path}: {found}; give one for each clean image")
    if _has_labels(path):
        labels = source.split("train").labels[:count]
        if not np.array_equal(labels, clean.train.labels):
            reason = "'train_labels' differ from the clean ones, so the order differs"
            raise UserError(f"{path}: {reason}; put the images in the order of the clean ones")
    return islice(source.images("train"), count)


def _has_labels(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:  # `shape` has read it already
        return "train_labels.npy" in archive.namelist()
