"""The protection of images that came later, by a protector."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bigbatch_ue.data.decoding import resize
from bigbatch_ue.data.image_files import (
    common_folder,
    decode,
    naming_all_unreadable,
    read_header,
)
from bigbatch_ue.data.source import Pixels, to_hwc
from bigbatch_ue.data.survey import Survey
from bigbatch_ue.files.atomic import atomic_folder
from bigbatch_ue.files.formats import write_json
from bigbatch_ue.protection.new_images import NewImage, list_new_images, refuse_any
from bigbatch_ue.protection.protect import perturb
from bigbatch_ue.protection.protector import Protector
from bigbatch_ue.protection.visibility import Visibility, measure_visibility
from bigbatch_ue.protection.writers import describe_old_suffixes
from bigbatch_ue.reporting.words import counted
from bigbatch_ue.runtime.errors import UserError, first_of
from bigbatch_ue.runtime.progress import progress

MANIFEST = "applied.json"
_CHUNK = 256
_SHOWN = 3


@dataclass(frozen=True)
class ApplyReport:
    """What was written.

    Attributes:
        folder: the output.
        clusters: number of images in each cluster that got any.
        left_out: files of the given folders that are not taken as images.
        changes: what of the images was left out or converted, a line for each kind.
        visibility: of the change, against the originals.
    """

    folder: Path
    clusters: dict[int, int]
    left_out: list[str]
    changes: list[str]
    visibility: Visibility

    def __str__(self) -> str:
        images = counted(self.visibility.images, "image")
        clusters = counted(len(self.clusters), "cluster")
        lines = [f"{self.folder}: {images} in {clusters}; {self.visibility}"]
        if self.left_out:
            files, shown = counted(len(self.left_out), "file"), first_of(self.left_out, _SHOWN)
            lines.append(f"left out, not images: {files} ({shown})")
        return "\n".join([*lines, *self.changes])


def apply_protector(
    protector: Protector, paths: Sequence[Path], out: Path, *, class_name: str | None = None
) -> ApplyReport:
    """Write the images of `paths`, perturbed, as PNG files of their own size.

    Args:
        protector: of their collection.
        paths: image files and folders of them. Where classes matter, an image belongs to the
            nearest folder above it that is named after a class.
        out: new folder. The images of a single folder keep their path below it; of several paths,
            each folder keeps its own name too.
        class_name: the class of all images, which no folder may contradict.

    Returns:
        The report, which is also in `applied.json`.

    Raises:
        UserError: a file is not an image, its class is unknown or not that of its folder, it is in
            colour and the collection is grey, two would have one name, or `out` exists or overlaps
            a path. Nothing is written.
    """
    _require_new(out, paths)
    channels = protector.settings.channels
    images, left_out = list_new_images(protector, paths, class_name)
    files = [image.path for image in images]
    with naming_all_unreadable(files):
        survey = Survey.of(files, common_folder(files))
    if survey.coloured and channels == 1:
        _refuse_colours(files)
    counts: Counter[int] = Counter()
    with (
        atomic_folder(out) as folder,
        progress("protecting", "images", len(images), kept=True) as stage,
    ):

        def pairs() -> Iterator[tuple[Pixels, Pixels]]:
            for start in range(0, len(images), _CHUNK):
                part = images[start : start + _CHUNK]
                with naming_all_unreadable(files):
                    originals = [decode(image.path, channels, survey.bits) for image in part]
                for image, original, cluster in zip(
                    part, originals, _choose(protector, part, originals), strict=True
                ):
                    counts[cluster] += 1
                    perturbed = perturb(original, protector.delta[cluster], protector.settings.eps)
                    path = folder / image.name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(to_hwc(perturbed)).save(path, format="PNG")
                    stage.advance()
                    yield original, decode(path, channels)

        visibility = measure_visibility(pairs())
        old = [image.name.removesuffix(".png") for image in images if image.old_suffix]
        changes = [*survey.changes(channels), *describe_old_suffixes(old)]
        report = ApplyReport(out, dict(sorted(counts.items())), left_out, changes, visibility)
        content = {key: value for key, value in asdict(report).items() if key != "folder"}
        write_json(folder / MANIFEST, content)
    return report


def _choose(
    protector: Protector, images: Sequence[NewImage], originals: Sequence[Pixels]
) -> list[int]:
    """Choose the cluster of each image."""
    resized = np.stack([resize(original, protector.settings.size) for original in originals])
    labels = np.array([image.label for image in images])
    return [int(cluster) for cluster in protector.choose(resized, labels)]


def _refuse_colours(files: Sequence[Path]) -> None:
    """Refuse the colour images among `files`, for a grey collection."""
    refuse_any(
        [path for path in files if not read_header(path).grey],
        "in colour, and the collection is grey; convert to grey first, or train on colour images",
    )


def _require_new(out: Path, paths: Sequence[Path]) -> None:
    """Raise a `UserError` if `out` exists, or if writing it might change one of `paths`."""
    if os.path.lexists(out):
        raise UserError(f"{out}: exists; choose another folder")
    target = out.resolve()
    for path in paths:
        real = path.resolve()
        if not real.exists():
            raise UserError(f"{path}: no such file or folder; check the path")
        if target.is_relative_to(real) or real.is_relative_to(target):
            raise UserError(f"{out}: overlaps {path}; choose another folder")
