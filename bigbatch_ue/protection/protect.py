"""Write the protected data set, each image under its cluster's perturbation, and measure it."""

import hashlib
import os
import re
import shutil
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.progress import Progress

from bigbatch_ue.data.datasets import open_source
from bigbatch_ue.data.decoded import DataSet, prepare_dataset
from bigbatch_ue.data.image_files import ImageFiles, decode
from bigbatch_ue.data.npz import Npz
from bigbatch_ue.data.source import Part, Pixels, Source, to_hwc
from bigbatch_ue.files.atomic import atomic_folder
from bigbatch_ue.files.formats import digest, read_json, write_json
from bigbatch_ue.protection.perturbations import (
    Perturbations,
    _add,
    load_perturbations,
    to_eight_bit,
)
from bigbatch_ue.protection.visibility import Visibility, measure_visibility
from bigbatch_ue.runs.folder import load_run
from bigbatch_ue.runtime.console import progress_bar
from bigbatch_ue.runtime.errors import UserError

Form = Literal["png", "npz"]
At = Literal["training", "original"]

MANIFEST = "protected.json"
_FORMAT = 2
_OTHERS = ("val_images", "val_labels", "test_images", "test_labels")


@dataclass(frozen=True)
class ProtectionReport:
    """What was measured on the written 8-bit files, against the originals of the same size."""

    folder: Path
    form: Form
    at: At
    visibility: Visibility

    def __str__(self) -> str:
        images = f"{self.visibility.images:,} images as {self.form} at {self.at} size"
        return f"{self.folder}: {images}; {self.visibility}"


def protect(
    run_folder: Path,
    *,
    out: Path | None = None,
    form: Form | None = None,
    at: At = "original",
    download: bool = False,
) -> ProtectionReport:
    """Write the train images of a finished run's data set, protected, and measure the change.

    Args:
        run_folder: of a finished run.
        out: new folder, by default `protected` in the run's; `png` goes to
            `train/<class>/<name>.png` in it, `npz` to one file with MedMNIST's keys (what is not a
            train image stays as it was), the report to `protected.json`.
        form: by default `png` for image files and `npz` for the rest.
        at: `training` size, or each image's `original` one, to which its perturbation is resized.
        download: allow the data set to be downloaded.

    Returns:
        The report, of the files as read back; if `out` holds the very same, nothing is written.

    Raises:
        UserError: no finished run, a data set that has changed, an `out` that exists or touches
            the source, images that the form cannot hold, a disk that fails, or a damaged file of
            weights for LPIPS.
    """
    config, run = load_run(run_folder)
    source = open_source(config.data, download)
    out = out or run.protected
    _require_apart(out, source)
    form = form or ("png" if isinstance(source, ImageFiles) else "npz")
    data = prepare_dataset(config.data, download=download)
    perturbations = load_perturbations(config, run, data)
    inputs = digest([_FORMAT, run.answer, perturbations.fingerprint(), form, at])
    if os.path.lexists(out):
        return _existing_report(out, inputs)
    job = _Job(source, data, perturbations, form, at)
    try:
        with atomic_folder(out) as folder, progress_bar() as progress:
            job.write(folder, progress)
            report = ProtectionReport(out, form, at, job.measure(folder, progress))
            measured = {"form": form, "at": at, "visibility": asdict(report.visibility)}
            content = {"inputs": inputs, "files": _hash(folder), "report": measured}
            about = {"dataset": data.name, "answer": run.answer, "eps": perturbations.eps}
            write_json(folder / MANIFEST, {**about, **content})
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"{out}: nothing was written ({error})") from None
    return report


def png_names(names: Sequence[str], labels: NDArray[np.int64], classes: Sequence[str]) -> list[str]:
    """Where each image goes as PNG: `<class>/<name>.png`, relative and all different.

    A name that has a folder keeps it. The old suffix goes, unless two names would become one.

    Args:
        names: N different names of images, relative paths with `/`.
        labels: int64 [N] in 0 ... len(classes) - 1.
        classes: the name of each label.

    Raises:
        UserError: a name that would lead out of the folder, or that is there twice.
    """
    folders = [re.sub(r"[/\\\0]", "_", name).strip(".") or "_" for name in classes]
    if len(set(folders)) < len(folders):
        folders = [f"{label} {folder}" for label, folder in enumerate(folders)]
    paths = []
    for name, label in zip(names, labels, strict=True):
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.name or "\0" in name:
            raise UserError(f"{name!r}: not a name for an image; rename it in the source")
        paths.append(path if len(path.parts) > 1 else PurePosixPath(folders[label], path))
    twice, count = Counter(paths).most_common(1)[0]
    if count > 1:
        raise UserError(f"{twice}: {count} images have this name; rename them in the source")
    chosen = [str(path.with_suffix(".png")) for path in paths]
    while len(set(chosen)) < len(chosen):
        uses = Counter(chosen)
        whole = [f"{path}.png" for path in paths]
        chosen = [w if uses[c] > 1 else c for c, w in zip(chosen, whole, strict=True)]
    return chosen


@dataclass(frozen=True)
class _Job:
    """What is to be written, and how."""

    source: Source
    data: DataSet
    perturbations: Perturbations
    form: Form
    at: At

    def write(self, folder: Path, progress: Progress) -> None:
        """Write the protected images below `folder`."""
        total = len(self.data.train)
        protected = progress.track(self._protected(), total=total, description="protecting")
        if self.form == "png":
            for path, image in zip(self._pngs(folder), protected, strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(to_hwc(image)).save(path, format="PNG")
            return
        with zipfile.ZipFile(self._npz(folder), "w", zipfile.ZIP_DEFLATED) as archive:
            _add_images(archive, "train_images", protected, total)
            _add_array(archive, "train_labels", self._column("train"))
            self._add_others(archive)

    def measure(self, folder: Path, progress: Progress) -> Visibility:
        """How visible the perturbations are in what `write` left below `folder`."""
        pairs = zip(self._originals("train"), self._written(folder), strict=True)
        total = len(self.data.train)
        return measure_visibility(progress.track(pairs, total=total, description="measuring"))

    def _originals(self, part: Part) -> Iterator[Pixels]:
        """The images of `part` as they were, uint8 [C, h, w]."""
        images = getattr(self.data, part).images
        if self.at == "training":
            return iter(images)
        return islice(self.source.split(part).images(), len(images))

    def _protected(self) -> Iterator[Pixels]:
        learnt = self.perturbations
        for image, row in zip(self._originals("train"), learnt.assignment, strict=True):
            units = to_eight_bit(_resized(learnt.delta[row], *image.shape[1:]), learnt.eps)
            yield _add(image, units)

    def _pngs(self, folder: Path) -> Iterator[Path]:
        train = self.data.train
        for name in png_names(train.names, train.labels, self.data.classes):
            yield folder / "train" / name

    def _npz(self, folder: Path) -> Path:
        place = Path(self.data.name.rpartition(":")[2]).name or "images"
        return folder / f"{self.source.path.stem if isinstance(self.source, Npz) else place}.npz"

    def _written(self, folder: Path) -> Iterator[Pixels]:
        if self.form == "npz":
            return Npz(self._npz(folder)).split("train").images()
        return (decode(path, self.source.channels) for path in self._pngs(folder))

    def _column(self, part: Part) -> NDArray[Any]:
        """The labels of `part` as [N, 1], in the dtype of the source."""
        labels = getattr(self.data, part).labels[:, None]
        if isinstance(self.source, Npz):
            labels = labels.astype(self.source.label_type(part))
        return np.asarray(labels)

    def _add_others(self, archive: zipfile.ZipFile) -> None:
        """The images that are not protected; from an npz of the same size, just as they are."""
        size = self.data.train.images.shape[2:]
        if isinstance(self.source, Npz) and (
            self.at == "original" or next(self.source.split("train").images()).shape[1:] == size
        ):
            with zipfile.ZipFile(self.source.path) as whole:
                for name in _OTHERS:
                    if f"{name}.npy" in whole.namelist():
                        with whole.open(f"{name}.npy") as old, _entry(archive, name) as new:
                            shutil.copyfileobj(old, new, 2**20)
            return
        _add_images(archive, "test_images", self._originals("test"), len(self.data.test))
        _add_array(archive, "test_labels", self._column("test"))


def _resized(delta: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """One perturbation [C, H, W] at another size, bilinear; never larger than it was."""
    if delta.shape[1:] == (height, width):
        return delta
    shrinks = height < delta.shape[1] or width < delta.shape[2]
    whole = torch.from_numpy(delta)[None]
    resized = F.interpolate(whole, (height, width), mode="bilinear", antialias=shrinks)
    return np.asarray(resized[0])


def _entry(archive: zipfile.ZipFile, name: str) -> Any:
    """A new array of the archive, to be written to; dated 1980 as numpy does, whatever the day."""
    return archive.open(f"{name}.npy", "w", force_zip64=True)


def _add_array(archive: zipfile.ZipFile, name: str, array: NDArray[Any]) -> None:
    with _entry(archive, name) as entry:
        np.lib.format.write_array(entry, np.ascontiguousarray(array), allow_pickle=False)


def _add_images(archive: zipfile.ZipFile, name: str, images: Iterable[Pixels], count: int) -> None:
    """Stream `count` images [C, h, w] into one array [count, h, w] or [count, h, w, 3]."""
    images = iter(images)
    first = to_hwc(next(images))
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, *first.shape)}
    with _entry(archive, name) as entry:
        np.lib.format.write_array_header_1_0(entry, header)
        for pixels in chain([first], map(to_hwc, images)):
            if pixels.shape != first.shape:
                sizes = " and ".join("x".join(map(str, r.shape[:2])) for r in (first, pixels))
                raise UserError(f"an npz has one size, not {sizes}; take form=png or at=training")
            entry.write(pixels.tobytes())


def _require_apart(out: Path, source: Source) -> None:
    """Raise a `UserError` if writing `out` might touch the source."""
    wanted, kept = out.resolve(), set(source.files())
    if isinstance(source, ImageFiles):
        kept = {path.parent for path in (*kept, *source.folders.values())}
    for path in sorted(kept):
        real = path.resolve()
        if wanted.is_relative_to(real) or real.is_relative_to(wanted):
            raise UserError(f"{out}: would touch the source in {path}; choose another folder")


def _existing_report(out: Path, inputs: str) -> ProtectionReport:
    """The report of the very same data set, which `out` holds already."""
    if not (out / MANIFEST).is_file():
        raise UserError(f"{out}: exists and is not a protected data set; choose another folder")
    content = read_json(out / MANIFEST, dict)
    if content.get("inputs") != inputs:
        raise UserError(f"{out}: holds other protected images; choose another folder or remove it")
    if content.get("files") != _hash(out):
        raise UserError(f"{out}: its files have been changed since; remove it to have it anew")
    try:
        found = TypeAdapter(ProtectionReport).validate_python({**content["report"], "folder": out})
    except (KeyError, TypeError, ValidationError):
        raise UserError(f"{out / MANIFEST}: damaged; remove {out} to have it anew") from None
    Console(stderr=True, markup=False).print(f"{out}: protected already, nothing to do")
    return found


def _hash(folder: Path) -> str:
    """SHA-256 of the names and bytes of all files below `folder` but the manifest and links."""
    whole = hashlib.sha256()
    for path in sorted(
        p
        for p in folder.rglob("*")
        if p.is_file() and not p.is_symlink() and p != folder / MANIFEST
    ):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return whole.hexdigest()
