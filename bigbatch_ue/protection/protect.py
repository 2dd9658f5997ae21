"""Protected data sets: written from a finished run, then measured on the written files."""

import hashlib
import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from bigbatch_ue.data.datasets import open_source
from bigbatch_ue.data.decoded import dataset_of_run
from bigbatch_ue.data.encoded import EncodedImages
from bigbatch_ue.data.source import Pixels, Source
from bigbatch_ue.files.atomic import atomic_folder
from bigbatch_ue.files.formats import digest, read_json, write_json
from bigbatch_ue.files.hashing import digest_files
from bigbatch_ue.protection.forms import WRITERS, choose_form
from bigbatch_ue.protection.perturbations import (
    Perturbations,
    add_units,
    load_perturbations,
    resize_perturbation,
    to_eight_bit,
)
from bigbatch_ue.protection.visibility import Visibility, measure_visibility
from bigbatch_ue.protection.writers import (
    FileFormat,
    ImageSize,
    Originals,
    Writer,
    describe_old_suffixes,
)
from bigbatch_ue.reporting.words import counted
from bigbatch_ue.runs.folder import load_run
from bigbatch_ue.runtime.console import note
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.progress import progress

MANIFEST = "protected.json"
_FORMAT = 2


@dataclass(frozen=True)
class ProtectionReport:
    """The visibility of the written 8-bit images, against originals of the same size."""

    folder: Path
    form: FileFormat
    at: ImageSize
    visibility: Visibility

    def __str__(self) -> str:
        images = f"{counted(self.visibility.images, 'image')} as {self.form} at {self.at} size"
        return f"{self.folder}: {images}; {self.visibility}"


def protect(
    run_folder: Path,
    *,
    place: str | None = None,
    out: Path | None = None,
    form: FileFormat | None = None,
    at: ImageSize = "original",
    download: bool = False,
) -> ProtectionReport:
    """Write the train images of a finished run's data set, protected, and measure the change.

    Args:
        run_folder: folder of a finished run.
        place: where the images of the run are now, such as `folder:PATH`; None if they have not
            moved.
        out: new folder, by default `protected` in the run's folder. `png` images go to
            `train/<class>/<name>.png`, `npz` to one file with MedMNIST's keys, `parquet` and `wds`
            to files with the names of the source's; in these three all but the train images stays
            as it is. The report goes to `protected.json`.
        form: by default that of the source: `png` for image files, `parquet` for tables and the
            cache of `datasets`, `wds` for tar shards, else `npz`.
        at: `training` size, or each image's `original` size, to which its perturbation is resized.
        download: allow the data set to be downloaded.

    Returns:
        The report on the files as read back. If `out` already contains this very data set, nothing
        is written.

    Raises:
        UserError: the run is not finished, the data set has changed, `out` exists or overlaps the
            source, the format cannot contain the images, or reading or writing fails.
    """
    config, run = load_run(run_folder, place)
    source = open_source(config.data, download)
    out = out or run.protected
    _require_apart(out, source)
    form = choose_form(source, form)
    data = dataset_of_run(config, run, download=download)
    perturbations = load_perturbations(config, run, data)
    inputs = digest([_FORMAT, run.answer, perturbations.fingerprint(), form, at])
    if os.path.lexists(out):
        return _existing_report(out, inputs)
    writer = WRITERS[form](Originals(source, data, at))
    changes = [*source.changes(), *_names_with_old_suffix(writer)]
    left_out = [*source.left_out(), *data.beyond_limit]
    try:
        with atomic_folder(out) as folder:
            visibility = _write_and_measure(writer, perturbations, folder)
            manifest = {
                "dataset": data.name,
                "answer": run.answer,
                "eps": perturbations.eps,
                "inputs": inputs,
                "files": hash_files(folder),
                "source": {"left_out": left_out, "changes": changes},
                "report": {"form": form, "at": at, "visibility": asdict(visibility)},
            }
            write_json(folder / MANIFEST, manifest)
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(
            f"{out}: nothing was written ({error}); fix the cause and try again"
        ) from None
    if left_out or changes:
        note(f"{out / MANIFEST}: says what was left out or converted, by kind")
    return ProtectionReport(out, form, at, visibility)


def perturb(image: Pixels, delta: NDArray[np.float32], eps: float) -> Pixels:
    """Add to an image uint8 [C, h, w] a perturbation [C, H, W], resized to it, of at most `eps`."""
    return add_units(image, to_eight_bit(resize_perturbation(delta, *image.shape[1:]), eps))


def hash_files(folder: Path) -> str:
    """Return the SHA-256 of the names and bytes of all files below `folder`.

    The manifest and links are left out.
    """
    combined = hashlib.sha256()
    paths = sorted(
        p
        for p in folder.rglob("*")
        if p.is_file() and not p.is_symlink() and p != folder / MANIFEST
    )
    for path, content in zip(paths, digest_files(paths, "the written files"), strict=True):
        combined.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return combined.hexdigest()


def _names_with_old_suffix(writer: Writer) -> list[str]:
    """Say which images keep their old suffix before the new one, for the manifest and the user."""
    lines = describe_old_suffixes(writer.with_old_suffix())
    for line in lines:
        note(f"{line}: another image has the same name without it")
    return lines


def _write_and_measure(writer: Writer, perturbations: Perturbations, folder: Path) -> Visibility:
    """Write the protected images, and measure the change on the files as read back."""
    originals = writer.originals
    count = len(perturbations.assignment)
    protected = _protect_images(originals, perturbations)
    with progress("protecting", "images", count, kept=True) as stage:
        writer.write(folder, stage.track(protected))
    pairs = zip(originals.images("train"), writer.read(folder), strict=True)
    with progress("measuring", "images", count, kept=True) as stage:
        return measure_visibility(stage.track(pairs))


def _protect_images(originals: Originals, perturbations: Perturbations) -> Iterator[Pixels]:
    """Yield each train image with its perturbation, resized to the image, uint8 [C, h, w]."""
    images = originals.images("train")
    for image, index in zip(images, perturbations.assignment, strict=True):
        yield perturb(image, perturbations.delta[index], perturbations.eps)


def _require_apart(out: Path, source: Source) -> None:
    """Raise a `UserError` if writing `out` might change the source."""
    target, source_paths = out.resolve(), set(source.files())
    if isinstance(source, EncodedImages):
        source_paths = {path.parent for path in source_paths} | {source.top}
    for path in sorted(source_paths):
        real = path.resolve()
        if target.is_relative_to(real) or real.is_relative_to(target):
            raise UserError(f"{out}: overlaps the source in {path}; choose another folder")


def _existing_report(out: Path, inputs: str) -> ProtectionReport:
    """Return the report of `out`, which exists, if it was made from the same `inputs`."""
    if not (out / MANIFEST).is_file():
        raise UserError(f"{out}: exists and is not a protected data set; choose another folder")
    manifest = read_json(out / MANIFEST, dict)
    if manifest.get("inputs") != inputs:
        raise UserError(
            f"{out}: contains other protected images; choose another folder or delete it"
        )
    if manifest.get("files") != hash_files(out):
        raise UserError(
            f"{out}: files were modified after protection; delete the folder to recreate it"
        )
    try:
        content = {**manifest["report"], "folder": out}
        report = TypeAdapter(ProtectionReport).validate_python(content)
    except (KeyError, TypeError, ValidationError):
        raise UserError(f"{out / MANIFEST}: damaged; delete {out} to recreate it") from None
    note(f"{out}: already protected; nothing to do")
    return report
