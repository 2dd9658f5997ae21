"""The shape of what a folder holds: names, keys and types of all of its files, no values."""

import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import yaml
from safetensors import safe_open
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

Shape = dict[str, str]

UNKNOWN = "null"
"""The type of a value that is not there this time; it may be of any other."""

_LEAVING = re.compile("energy|joules")
"""Keys and columns of no shape: the measurement of energy is to be deleted, on purpose."""

_CHANGING = (
    (re.compile(r"(?<![0-9a-f])[0-9a-f]{12}(?![0-9a-f])"), "<digest>"),
    (re.compile(r"(events\.out\.tfevents)\..+"), r"\1.<when and where>"),
    (re.compile(r"(?<=[/-])b\d+-s\d+(?=/)"), "b<B>-s<seed>"),
    (re.compile(r"/\d+/\d{5}\.png$"), "/<class>/<number>.png"),
    (re.compile(r"-on-[^/]+?(?=(\.\w+)?(/|$))"), "-on-<device>"),
)
"""What file names have of trained numbers, a time, a machine, or one run or image of many."""


def shape_of(folder: Path, *parts: str) -> dict[str, Shape]:
    """The shapes of all files below `parts` of `folder`, by name; of files named alike, the union.

    In a name, whatever depends on numbers, time and machine is in angle brackets.
    """
    found: dict[str, list[Shape]] = defaultdict(list)
    for part in parts:
        for path in sorted(p for p in (folder / part).rglob("*") if p.is_file()):
            name = path.relative_to(folder).as_posix()
            for pattern, instead in _CHANGING:
                name = pattern.sub(instead, name)
            found[name].append(_shape(path))
    return {
        name: {key: kind for key, kind in _union(shapes).items() if not _LEAVING.search(key)}
        for name, shapes in found.items()
    }


def _shape(path: Path) -> Shape:
    """Of a file, by its kind; nothing of a text, a page or a picture."""
    if ".tfevents." in path.name:
        return dict(_board(path))
    match path.suffix:
        case ".json":
            return _leaves(json.loads(path.read_text()))
        case ".jsonl":
            return _union(_leaves(json.loads(line)) for line in path.read_text().splitlines())
        case ".yaml":
            return _leaves(yaml.safe_load(path.read_text()))
        case ".csv":
            with path.open(newline="") as file:
                names = [name for name in next(csv.reader(file)) if not _LEAVING.search(name)]
            return {name: f"after {before}" for before, name in pairwise(("nothing", *names))}
        case ".parquet":
            return {field.name: str(field.type) for field in pyarrow.parquet.read_schema(path)}
        case ".safetensors":
            return dict(_tensors(path))
        case ".npy":
            return {"": _array(np.load(path))}
        case ".npz":
            with np.load(path) as arrays:
                return {name: _array(array) for name, array in arrays.items()}
    return {}


def _leaves(content: Any, place: str = "") -> Shape:
    """Each value's type by its dotted keys; elements of a list are one."""
    if isinstance(content, dict) and content:
        keys = ((f"{place}.{key}".removeprefix("."), value) for key, value in content.items())
        return _union(_leaves(value, key) for key, value in keys)
    if isinstance(content, list) and content:
        return _union(_leaves(element, f"{place}[]") for element in content)
    return {place: UNKNOWN if content is None else type(content).__name__}


def settle(one: Shape, other: Shape) -> None:
    """Have `one` say of what is unknown in it what `other` does, if that has such a place."""
    for place in [place for place, kind in one.items() if kind == UNKNOWN]:
        there = {name: kind for name, kind in other.items() if _is_at(name, place)}
        if there:
            del one[place]
            one |= there


def _union(shapes: Iterable[Shape]) -> Shape:
    kinds: dict[str, set[str]] = defaultdict(set)
    for shape in shapes:
        for key, kind in shape.items():
            kinds[key].update(kind.split("|"))
    known = {key: "|".join(sorted(found - {UNKNOWN})) for key, found in kinds.items()}
    return {
        key: kind or UNKNOWN
        for key, kind in known.items()
        if kind or not any(_is_at(other, key) for other in known.keys() - {key})
    }


def _is_at(name: str, place: str) -> bool:
    return name == place or name.startswith((f"{place}.", f"{place}["))


def _array(array: Any) -> str:
    return f"{array.dtype}, {array.ndim}-D"


def _tensors(path: Path) -> Iterator[tuple[str, str]]:
    """Tensors, numbers in their names left out, and what is said about them."""
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            part = file.get_slice(name)
            layer = re.sub(r"(?<![^./])\d+(?![^./])", "<n>", name)
            yield layer, f"{part.get_dtype()}, {len(part.get_shape())}-D"
        for name, text in (file.metadata() or {}).items():
            about = json.loads(text) if text.startswith("{") else text
            yield from _leaves(about, f"metadata {name}").items()


def _board(path: Path) -> Iterator[tuple[str, str]]:
    """TensorBoard's tags, and settings and metrics of the HPARAMS page."""
    events = EventAccumulator(str(path)).Reload()
    for kind, tags in events.Tags().items():
        for tag in tags if isinstance(tags, list) else ():
            yield tag, kind
    for tag, metadata in events.summary_metadata.items():
        data = HParamsPluginData.FromString(metadata.plugin_data.content)
        match tag:
            case "_hparams_/experiment":
                for setting in data.experiment.hparam_infos:
                    yield f"{tag} {setting.name}", "setting"
                for metric in data.experiment.metric_infos:
                    yield f"{tag} {metric.name.tag}", "metric"
            case "_hparams_/session_start_info":
                for name in data.session_start_info.hparams:
                    yield f"{tag} {name}", "setting"
            case "_hparams_/session_end_info":
                yield tag, "session"
