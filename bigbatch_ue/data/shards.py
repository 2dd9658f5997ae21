"""Files that contain many images each: found by folder or pattern, and sorted into parts."""

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bigbatch_ue.config.sections import TakeConfig
from bigbatch_ue.data.image_files import common_folder
from bigbatch_ue.data.inventory import files_below, is_hidden_folder
from bigbatch_ue.data.source import PARTS, Part
from bigbatch_ue.files.paths import expand_path
from bigbatch_ue.runtime.errors import UserError, first_of

_NUMBERED = re.compile(r"(.+)-\d+-of-\d+")
"""The names of shards on the Hugging Face hub: `train-00000-of-00003`."""
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_WORD = re.compile(r"[A-Za-z0-9]+")


@dataclass(frozen=True)
class Shards:
    """The shards of a data set.

    Attributes:
        top: the folder of all of them.
        parts: the shards of each part, in order.
        others: shards that belong to neither part.
        left: names of what is left out below `top`, by reason.
    """

    top: Path
    parts: dict[Part, list[Path]]
    others: list[Path]
    left: dict[str, list[str]]


def find_shards(
    place: str, suffix: str, take: TakeConfig, parts: Sequence[Part] = PARTS, used: str = ""
) -> Shards:
    """Find the shards of a data set.

    A shard belongs to the part whose word (`take.train`, `take.test`) is in its path below the
    folder of all, or is its whole name before `-00000-of-00003`.

    Args:
        place: a folder, or a pattern of files with `*`, `?`, `{000..099}` or `{train,test}`.
        suffix: of shards, such as `.tar`.
        take: the words of the parts.
        parts: those that must be there.
        used: name of another file that belongs to the data set.

    Raises:
        UserError: a missing file or part, or a shard that may belong to both.
    """
    folder = expand_path(place)
    left: dict[str, list[str]] = {}
    if folder.is_dir():
        top, files, others = folder, *_files_of_folder(folder, suffix)
        names = [path.relative_to(top).as_posix() for path in others if path.name != used]
        left[f"not {suffix} files"] = names
    else:
        files = _files_of_pattern(str(folder), suffix)
        top = common_folder(files)
    if not files:
        raise UserError(f"{place}: contains no {suffix} file; check the path")
    found: dict[Part | None, list[Path]] = {part: [] for part in (*PARTS, None)}
    for path in files:
        found[_part_of(path, top, take)].append(path)
    for part in parts:
        if not found[part]:
            word = getattr(take, part)
            there = sorted({_split_name(path, top) for path in files})
            raise UserError(
                f"{place}: no {suffix} file of {word!r} there, but of {first_of(there)}; name the "
                f"one to use, data.take.{part}=NAME"
            )
    words = f"of neither data.take.train={take.train} nor data.take.test={take.test}"
    left[words] = [path.relative_to(top).as_posix() for path in found[None]]
    return Shards(top, {part: found[part] for part in PARTS}, found[None], left)


def _files_of_folder(folder: Path, suffix: str) -> tuple[list[Path], list[Path]]:
    """List the files below a folder with a suffix, and the others; hidden ones are neither."""
    files: list[Path] = []
    others: list[Path] = []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or (entry.is_dir() and is_hidden_folder(entry.name)):
            continue
        for path in files_below(entry):
            (files if path.suffix == suffix else others).append(path)
    return sorted(files), others


def _files_of_pattern(pattern: str, suffix: str) -> list[Path]:
    """List the files of a pattern: those that braces name must all be there."""
    found: dict[Path, None] = {}
    missing: list[str] = []
    for name in expand_braces(pattern):
        paths = sorted(_matches(name)) if glob.has_magic(name) else [name]
        if not paths or not Path(paths[0]).is_file():
            missing.append(name)
        found |= dict.fromkeys(map(Path, paths))
    if missing:
        raise UserError(f"{first_of(missing)}: no such file; check the path")
    other = [str(path) for path in found if path.suffix != suffix]
    if other:
        unpack = "; unpack it" if other[0].endswith((".gz", ".tgz", ".zst", ".bz2", ".xz")) else ""
        raise UserError(f"{first_of(other)}: not a {suffix} file{unpack}")
    return list(found)


def _matches(pattern: str) -> list[str]:
    return glob.glob(pattern, recursive=True)  # noqa: PTH207 (the pattern may be absolute)


def expand_braces(pattern: str) -> Iterator[str]:
    """Yield the names that a pattern with `{a,b}` and `{000..099}` stands for, as a shell does."""
    braces = _BRACES.search(pattern)
    if braces is None:
        yield pattern
        return
    before, after = pattern[: braces.start()], pattern[braces.end() :]
    for each in _alternatives(braces[1]):
        for rest in expand_braces(after):
            yield f"{before}{each}{rest}"


def _alternatives(text: str) -> list[str]:
    numbers = _RANGE.fullmatch(text)
    if numbers is None:
        return text.split(",")
    first, last = numbers.groups()
    return [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]


def _part_of(path: Path, top: Path, take: TakeConfig) -> Part | None:
    """Return the part to which a shard belongs, by its name; None for neither."""
    whole = _NUMBERED.fullmatch(path.stem)
    if whole is not None and whole[1] not in ("part", "shard"):
        words = {whole[1]}
    else:
        below = path.relative_to(top).with_suffix("").as_posix()
        words = {
            form for word in _WORD.findall(below) for form in (word, word.rstrip("0123456789"))
        }
    parts = [part for part in PARTS if getattr(take, part) in words]
    if len(parts) > 1:
        raise UserError(f"{path}: is of {take.train!r} and of {take.test!r} by its name; rename it")
    return parts[0] if parts else None


def _split_name(path: Path, top: Path) -> str:
    """Return the name of the split to which a shard seems to belong."""
    whole = _NUMBERED.fullmatch(path.stem)
    name = whole[1] if whole else path.relative_to(top).with_suffix("").as_posix()
    return re.sub(r"[-_./]*\d+$", "", name) or name
