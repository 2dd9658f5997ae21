"""What trackers have written, read back by step and tag."""

import json
import struct
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from numpy.typing import NDArray
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

Scalars = dict[tuple[str, int], float]
_BLOCK, _HEADER = 32768, struct.Struct("<IHB")


@dataclass
class Tracked:
    """One run of a tracker; a step that was sent twice is twice in `order`."""

    name: str = ""
    own_id: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    scalars: Scalars = field(default_factory=dict)
    order: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    pictures: dict[tuple[str, int], NDArray[np.uint8]] = field(default_factory=dict)


def tensorboard_scalars(folder: Path) -> Scalars:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    tags = events.Tags()["scalars"]
    return {(tag, event.step): event.value for tag in tags for event in events.Scalars(tag)}


def mlflow_runs(store: Path, monkeypatch: pytest.MonkeyPatch) -> list[Tracked]:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = MlflowClient(store.as_uri())
    (experiment,) = client.search_experiments(filter_string="name = 'bigbatch-ue'")
    runs = []
    for run in reversed(client.search_runs([experiment.experiment_id])):
        tags = run.data.tags
        labels = {"group": tags["group"], "stage": tags["stage"], "state": run.info.status}
        labels["user"] = f"{run.info.user_id} {tags['mlflow.user']} {tags['mlflow.source.name']}"
        tracked = Tracked(run.info.run_name, run.info.run_id, labels, dict(run.data.params))
        for tag in run.data.metrics:
            for metric in client.get_metric_history(run.info.run_id, tag):
                tracked.scalars[tag, metric.step] = metric.value
                tracked.order[tag].append(metric.step)
        pictures = Path(run.info.artifact_uri.removeprefix("file://")) / "images"
        for path in sorted(pictures.glob("*.png")):
            tag, _, step, *_ = path.name.split("+")
            assert (tag, int(step)) not in tracked.pictures
            tracked.pictures[tag, int(step)] = np.asarray(Image.open(path))
        runs.append(tracked)
    return runs


def wandb_runs(folder: Path) -> list[Tracked]:
    """The runs below `folder`, one for each process, in order of time."""
    return [_wandb_run(path) for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"))]


def _wandb_run(path: Path) -> Tracked:
    for _ in range(100):  # wandb's service writes the end a little later
        records = list(_records(path.read_bytes()))
        if records[-1].WhichOneof("record_type") == "exit":
            break
        time.sleep(0.01)
    tracked = Tracked()
    for record in records:
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            tracked.name, tracked.own_id = run.display_name, run.run_id
            tracked.labels = {"group": run.run_group, "stage": run.job_type, "host": run.host}
        elif kind == "config":
            for item in record.config.update:
                key = item.key or ".".join(item.nested_key)
                tracked.settings[key] = json.loads(item.value_json)
        elif kind == "history":
            _add_history(tracked, record.history, path.parent / "files")
        elif kind == "exit":
            tracked.labels["exit"] = str(record.exit.exit_code)
    return tracked


def _add_history(tracked: Tracked, history: Any, files: Path) -> None:
    step = history.step.num
    pictures: dict[str, dict[str, Any]] = defaultdict(dict)
    for item in history.item:
        tag, *rest = item.nested_key or [item.key]
        value = json.loads(item.value_json)
        if rest:
            pictures[tag][rest[0]] = value
        elif isinstance(value, dict):
            pictures[tag] = value
        elif not tag.startswith("_"):
            tracked.scalars[tag, step] = value
            tracked.order[tag].append(step)
    for tag, about in pictures.items():
        if "filenames" in about:
            (name,) = about["filenames"]
            tracked.pictures[tag, step] = np.asarray(Image.open(files / name))


def _records(content: bytes) -> Iterator[Record]:
    """The records of a .wandb file, whose framing is that of LevelDB's log."""
    assert content.startswith(b":W&B")
    at, parts = 7, b""
    while at + _HEADER.size <= len(content):
        if _BLOCK - at % _BLOCK < _HEADER.size:
            at += _BLOCK - at % _BLOCK
            continue
        _, size, kind = _HEADER.unpack_from(content, at)
        at += _HEADER.size
        parts += content[at : at + size]
        at += size
        if kind in (1, 4):  # a whole record, or its last part
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""
