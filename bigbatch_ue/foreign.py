"""Train images that another program has perturbed, beside their clean originals."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np

from bigbatch_ue.config import Data
from bigbatch_ue.data import DataSet, resize
from bigbatch_ue.errors import UserError
from bigbatch_ue.progress import progress_bar
from bigbatch_ue.protect import png_names
from bigbatch_ue.sources import Npz, Pixels, decode, may_be_image


def load_foreign(place: str, clean: DataSet, config: Data) -> Pixels:
    """The perturbed version of each image of `clean.train`.

    Args:
        place: `folder:PATH`, or only PATH, with `train/<class>/<name>` or `<class>/<name>`: names
            are those of the clean images, or those that `bigbatch-ue protect` gives, whatever the
            suffix. `npz:PATH`, or only PATH, with `train_images` and `train_labels` in the order of
            the clean ones, as MedMNIST has them.
        clean: the original, from `prepare`.
        config: says at which size images are compared, and how many of them.

    Returns:
        uint8 [N, C, H, W] in memory, in the order and at the size of `clean.train`.

    Raises:
        UserError: images that are missing, superfluous, unreadable, of another kind or unchanged.
    """
    kind, colon, rest = place.partition(":")
    path = Path(rest if colon and kind in ("folder", "npz") else place).expanduser()
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; give folder:PATH or npz:PATH")
    limited = config.limit is not None
    found = _from_folder(path, clean, limited) if path.is_dir() else _from_npz(path, clean, limited)
    originals = clean.train.images
    perturbed = np.empty(originals.shape, np.uint8)
    with progress_bar(transient=True) as progress:
        shown = progress.track(found, total=len(originals), description=f"reading {path.name}")
        for index, image in enumerate(shown):
            perturbed[index] = resize(image, originals.shape[-1])
    if np.array_equal(perturbed, originals):
        raise UserError(f"{path}: not perturbed, its images are identical to the clean ones")
    return perturbed


def _from_folder(path: Path, clean: DataSet, limited: bool) -> Iterator[Pixels]:
    """The image files of a folder, in the order of the clean images."""
    top = path / "train" if (path / "train").is_dir() else path
    files: dict[str, Path] = {}
    for file in sorted(file for file in top.rglob("*") if may_be_image(str(file))):
        key = _key(file.relative_to(top).as_posix())
        if key in files:
            raise UserError(f"{file}: {files[key].name} is there too; keep one of them")
        files[key] = file
    names = png_names(clean.train.names, clean.train.labels, clean.classes)
    wanted = [_key(name) for name in names]
    missing = [name for name in wanted if name not in files]
    if missing:
        raise UserError(
            f"{top}: {len(missing):,} of {len(wanted):,} train images are missing, such as "
            f"{missing[0]}; a perturbed image has the class folder and name of its original"
        )
    more = sorted(files.keys() - set(wanted))
    if more and not limited:
        raise UserError(
            f"{top}: {len(more):,} images have no clean original, such as {more[0]}; remove them"
        )
    channels = clean.train.images.shape[1]
    return (decode(files[name], channels) for name in wanted)


def _from_npz(path: Path, clean: DataSet, limited: bool) -> Iterator[Pixels]:
    """The train images of an npz file, as many as there are clean ones."""
    count, channels, *_ = clean.train.images.shape
    split = Npz(path).split("train")
    there = len(split.labels)
    if there < count or (there > count and not limited):
        raise UserError(f"{path}: holds {there:,} train images, the clean set {count:,}")
    if not np.array_equal(split.labels[:count], clean.train.labels):
        raise UserError(f"{path}: 'train_labels' differ from the clean ones: in another order?")
    theirs = len(next(split.images()))
    if theirs != channels:
        raise UserError(f"{path}: its images have C = {theirs}, the clean ones {channels}")
    return islice(split.images(), count)


def _key(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))
