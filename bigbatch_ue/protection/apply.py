"""The protection of images that came later, by a protector."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from bigbatch_ue.data.decoded import resize
from bigbatch_ue.data.image_files import Header, bits_of, decode, describe_changes, read_header
from bigbatch_ue.data.inventory import take_inventory
from bigbatch_ue.data.source import Pixels, to_hwc
from bigbatch_ue.files.atomic import atomic_folder
from bigbatch_ue.files.formats import write_json
from bigbatch_ue.protection.protect import perturb
from bigbatch_ue.protection.protector import Protector
from bigbatch_ue.protection.visibility import Visibility, measure_visibility
from bigbatch_ue.protection.writers import distinct_png_names
from bigbatch_ue.reporting.words import counted
from bigbatch_ue.runtime.console import progress_bar
from bigbatch_ue.runtime.errors import UserError

MANIFEST = "applied.json"
_CHUNK = 256
_SHOWN = 3


@dataclass(frozen=True)
class NewImage:
    """An image to protect: its file, its name in the output, and its class (-1: unknown)."""

    path: Path
    name: str
    label: int


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
            shown = ", ".join(self.left_out[:_SHOWN])
            more = ", ..." if len(self.left_out) > _SHOWN else ""
            files = counted(len(self.left_out), "file")
            lines.append(f"left out, not images: {files} ({shown}{more})")
        return "\n".join([*lines, *self.changes])


def apply_protector(
    protector: Protector, paths: Sequence[Path], out: Path, *, class_name: str | None = None
) -> ApplyReport:
    """Write the images of `paths`, perturbed, as PNG files of their own size.

    Args:
        protector: of their collection.
        paths: image files and folders of them. Where classes matter, an image belongs to the
            nearest folder above it that is named after a class.
        out: new folder. Images keep their path below the given folder.
        class_name: the class of all images, whatever their folders are called.

    Returns:
        The report, which is also in `applied.json`.

    Raises:
        UserError: a file is not an image, its class is unknown, it is in colour and the collection
            is grey, two would have one name, or `out` exists or overlaps a path. Nothing is
            written.
    """
    _require_new(out, paths)
    channels = protector.settings.channels
    images, left_out = _list_images(protector, paths, class_name)
    headers = {image.path: read_header(image.path) for image in images}
    bits = bits_of(headers.values())
    _require_grey(protector, headers)
    counts: Counter[int] = Counter()
    with atomic_folder(out) as folder, progress_bar() as progress:
        task = progress.add_task("protecting", total=len(images))

        def pairs() -> Iterator[tuple[Pixels, Pixels]]:
            for start in range(0, len(images), _CHUNK):
                part = images[start : start + _CHUNK]
                originals = [decode(image.path, channels, bits) for image in part]
                for image, original, cluster in zip(
                    part, originals, _choose(protector, part, originals), strict=True
                ):
                    counts[cluster] += 1
                    perturbed = perturb(original, protector.delta[cluster], protector.settings.eps)
                    path = folder / image.name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(to_hwc(perturbed)).save(path, format="PNG")
                    progress.advance(task)
                    yield original, decode(path, channels)

        visibility = measure_visibility(pairs())
        changes = describe_changes(headers, _top_of(headers), channels)
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


def _top_of(files: Iterable[Path]) -> Path:
    """Return the folder of all files."""
    return Path(os.path.commonpath([file.parent for file in files]))


def _require_grey(protector: Protector, headers: dict[Path, Header]) -> None:
    """Refuse colour images for a grey collection."""
    colour = [path for path, header in headers.items() if not header.grey]
    if protector.settings.channels == 1 and colour:
        raise UserError(
            f"{colour[0]}: is in colour, and the collection is grey; convert it first, or train "
            "on colour images"
        )


def _list_images(
    protector: Protector, paths: Sequence[Path], class_name: str | None
) -> tuple[list[NewImage], list[str]]:
    """List the images of `paths`, and the other files of folders among them."""
    found: list[tuple[Path, PurePosixPath]] = []
    left_out: list[str] = []
    for path in paths:
        if path.is_dir():
            inside = take_inventory(path, inside=path)
            found += [
                (file, PurePosixPath(file.relative_to(path).as_posix())) for file in inside.images
            ]
            others = [file for files in inside.left_out.values() for file in files]
            left_out += sorted(file.relative_to(path).as_posix() for file in others)
        else:
            found.append((path, PurePosixPath(path.name)))
    if not found:
        raise UserError(f"{', '.join(map(str, paths))}: contains no image; name some")
    names = distinct_png_names([name for _, name in found])
    commonest, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise UserError(f"{commonest}: {count} images would get this name; protect them apart")
    labels = [_label(protector, file, class_name) for file, _ in found]
    files = [file for file, _ in found]
    return [NewImage(*each) for each in zip(files, names, labels, strict=True)], left_out


def _label(protector: Protector, file: Path, class_name: str | None) -> int:
    """Return the class of an image; -1 where classes do not matter."""
    if not protector.needs_classes:
        return -1
    classes = protector.settings.classes
    named = [class_name] if class_name is not None else [p.name for p in file.absolute().parents]
    label = next((classes.index(name) for name in named if name in classes), None)
    allowed = ", ".join(classes)
    if label is None and class_name is not None:
        raise UserError(f"--class {class_name}: unknown class; allowed: {allowed}")
    if label is None:
        raise UserError(
            f"{file}: in no folder that is named after a class; use one of {allowed}, or --class"
        )
    if label not in protector.labels:
        raise UserError(f"{file}: its class had no train image, so no perturbation; leave it out")
    return label


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
