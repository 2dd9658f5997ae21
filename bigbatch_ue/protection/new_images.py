"""Images to protect that came later: their files, their names in the output, and their classes."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bigbatch_ue.data.inventory import take_inventory
from bigbatch_ue.files.paths import composed
from bigbatch_ue.protection.protector import Protector
from bigbatch_ue.protection.writers import distinct_png_names, keeps_old_suffix
from bigbatch_ue.runtime.console import note
from bigbatch_ue.runtime.errors import UserError, first_of


@dataclass(frozen=True)
class NewImage:
    """An image to protect: its file, its name in the output, and its class (-1: unknown)."""

    path: Path
    name: str
    label: int

    @property
    def old_suffix(self) -> bool:
        """Whether the name has the old suffix before the new one."""
        return keeps_old_suffix(PurePosixPath(self.path.name), PurePosixPath(self.name))


def list_new_images(
    protector: Protector, paths: Sequence[Path], class_name: str | None
) -> tuple[list[NewImage], list[str]]:
    """List the images of `paths`, and the other files of folders among them.

    Args:
        protector: of their collection.
        paths: image files and folders of them. The images of a single folder keep their path below
            it; of several paths, each folder keeps its own name too.
        class_name: the class of all images; None if their folders are named after classes.

    Raises:
        UserError: there is no image, two would have one name, or a class is unknown, contradicts
            `class_name`, or has no perturbation.
    """
    found: list[tuple[Path, PurePosixPath]] = []
    left_out: list[str] = []
    for path in paths:
        if not path.is_dir():
            found.append((path, PurePosixPath(path.name)))
            continue
        inside = take_inventory(path, inside=path)
        own = PurePosixPath(_absolute(path).name if len(paths) > 1 else "")
        found += [(file, own / file.relative_to(path).as_posix()) for file in inside.images]
        others = [file for files in inside.left_out.values() for file in files]
        left_out += sorted(str(own / file.relative_to(path).as_posix()) for file in others)
    if not found:
        raise UserError(f"{', '.join(map(str, paths))}: contains no image; name some")
    commonest, count = Counter(name for _, name in found).most_common(1)[0]
    if count > 1:
        alike = [str(file) for file, name in found if name == commonest]
        raise UserError(f"{first_of(alike)}: would get the same name; protect them apart")
    names = distinct_png_names([name for _, name in found])
    files = [file for file, _ in found]
    labels = _labels(protector, files, class_name)
    return [NewImage(*each) for each in zip(files, names, labels, strict=True)], left_out


def refuse_any(files: Sequence[Path], problem: str) -> None:
    """Refuse `files` if there are any: the message names the first, and says how many follow."""
    if files:
        raise UserError(f"{first_of(list(map(str, files)), 1)}: {problem}")


def _labels(protector: Protector, files: Sequence[Path], class_name: str | None) -> list[int]:
    """Return the class of each image; -1 where classes do not matter."""
    if not protector.needs_classes:
        if class_name is not None:
            note(f"--class {class_name}: has no effect; this collection's clusters ignore classes")
        return [-1] * len(files)
    classes = {composed(name): label for label, name in enumerate(protector.settings.classes)}
    folders = [_class_folder(file, classes) for file in files]
    if class_name is None:
        _require_class_folders(files, folders, classes)
        labels = [classes[composed(folder.name)] for folder in folders if folder]
    else:
        labels = [_label_given(class_name, files, folders, classes)] * len(files)
    without = [f for f, label in zip(files, labels, strict=True) if label not in protector.labels]
    refuse_any(without, "the class had no train image, so it has no perturbation; leave it out")
    return labels


def _class_folder(file: Path, classes: dict[str, int]) -> Path | None:
    """Find the nearest folder above `file` that is named after a class."""
    above = (*Path(os.path.normpath(file)).parents, *_absolute(file).parents)
    return next((folder for folder in above if composed(folder.name) in classes), None)


def _absolute(path: Path) -> Path:
    """Return `path` from the root on, without `..`; links are not followed."""
    return Path(os.path.normpath(path.absolute()))


def _require_class_folders(
    files: Sequence[Path], folders: Sequence[Path | None], classes: dict[str, int]
) -> None:
    """Refuse images that are in no folder of a class, and say how to protect the others."""
    known = next((folder for folder in folders if folder), None)
    remedy = "add --class, or put each into a folder that is named after its class"
    if known:
        remedy = (
            "protect them by themselves, with --class, and the others by naming their class "
            f"folders one by one, such as {known}"
        )
    refuse_any(
        [file for file, folder in zip(files, folders, strict=True) if folder is None],
        f"in no folder that is named after a class ({', '.join(classes)}); {remedy}",
    )


def _label_given(
    class_name: str,
    files: Sequence[Path],
    folders: Sequence[Path | None],
    classes: dict[str, int],
) -> int:
    """Return the label of `class_name`, which no folder may contradict."""
    own = composed(class_name)
    if own not in classes:
        allowed = ", ".join(classes)
        raise UserError(f"--class {class_name}: unknown class; allowed: {allowed}")
    others = [
        (file, folder)
        for file, folder in zip(files, folders, strict=True)
        if folder and composed(folder.name) != own
    ]
    if others:
        refuse_any(
            [file for file, _ in others],
            f"in {others[0][1]}, which is named after another class than --class {class_name}; "
            "leave --class out, so that each image gets the class of its folder",
        )
    return classes[own]
