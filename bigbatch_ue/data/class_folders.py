"""Folders of classes: `train/<class>/<image>` and `test/<class>/<image>`."""

from pathlib import Path

from bigbatch_ue.data.encoded import EncodedImages, files_of_parts
from bigbatch_ue.data.inventory import (
    Inventory,
    is_hidden_folder,
    list_others,
    take_inventory,
)
from bigbatch_ue.data.source import PARTS, Part
from bigbatch_ue.files.paths import composed
from bigbatch_ue.runtime.errors import UserError, first_of


def open_folder(path: Path) -> EncodedImages:
    """Open a folder with `train/<class>/<image>` and `test/<class>/<image>`.

    Raises:
        UserError: a missing folder, a class without images or in one part only, or a link that
            leads out of the folder.
    """
    folders = {part: path / part for part in PARTS}
    folders_of = class_folders(path)
    classes = list(folders_of["train"])
    samples: dict[Part, list[tuple[Path, int]]] = {}
    whole, empty = Inventory(), []
    for part, folder in folders.items():
        samples[part] = []
        for label, name in enumerate(classes):
            found = take_inventory(folders_of[part][name], inside=path)
            if not found.images:
                empty.append(str(folders_of[part][name]))
            samples[part] += [(file, label) for file in found.images]
            whole.add(found)
        taken = [place.name for place in folders_of[part].values()]
        whole.add(
            list_others(
                folder, taken, f"outside the class folders of {part}/, to be moved into one"
            )
        )
    if empty:
        raise UserError(f"{first_of(empty)}: contains no image; add at least one to each")
    whole.add(list_others(path, PARTS, "outside train/ and test/, to be moved there"))
    return files_of_parts(classes, folders, samples, path, whole.names_left_out(path))


def class_folders(path: Path) -> dict[Part, dict[str, Path]]:
    """Find the class folders of both parts, by the name of the class in composed Unicode.

    Raises:
        UserError: a missing folder, a class in one part only, or two folders of one name.
    """
    folders = {part: _class_folders(path / part) for part in PARTS}
    _require_same_classes(path, folders)
    return folders


def _class_folders(folder: Path) -> dict[str, Path]:
    """Find the class folders of one part, by the name of the class in composed Unicode.

    They are in the order of their names on disk, which decides the labels.
    """
    part = folder.name
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; put images into {part}/<class>/, and name the folder "
            f"of train/ and test/{_hint(folder.parent, part)}"
        )
    found: dict[str, Path] = {}
    for place in sorted(folder.iterdir()):
        if not place.is_dir() or is_hidden_folder(place.name):
            continue
        name = composed(place.name)
        if name in found:
            raise UserError(
                f"{place}: there are two folders of that name, written in two forms of Unicode "
                f"({found[name].name!a} and {place.name!a}); merge them"
            )
        found[name] = place
    if not found:
        raise UserError(f"{folder}: contains no class folder; put images into {part}/<class>/")
    return found


def _hint(path: Path, part: str) -> str:
    """Say what is at `path` instead of a folder for `part`."""
    if path.name in PARTS:
        return f"; {path} is one of them, so name {path.parent}"
    others = (
        [each.name for each in sorted(path.iterdir()) if each.is_dir()] if path.is_dir() else []
    )
    if same := [name for name in others if name.lower() == part]:
        return f"; rename {same[0]}/ to {part}/"
    if others and not {*others} & {*PARTS}:
        return (
            f"; {path} contains {first_of(others, 3)}: if these are classes, move them into "
            "train/, and about a fifth of the images of each into test/<class>/"
        )
    return ""


def _require_same_classes(path: Path, folders: dict[Part, dict[str, Path]]) -> None:
    """Refuse a class that only one part has."""
    for part, other in (PARTS, PARTS[::-1]):
        missing = [str(path / other / name) for name in folders[part] if name not in folders[other]]
        if missing:
            raise UserError(
                f"{first_of(missing)}: no such folder, but {part} has that class; add it, or give "
                "both the same name, capitals included"
            )
