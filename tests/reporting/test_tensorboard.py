import math
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.api_pb2 import DATA_TYPE_FLOAT64, DATA_TYPE_STRING, STATUS_FAILURE
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from bigbatch_ue.reporting.tensorboard import HparamsRow, write_events


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


def hparams(events: EventAccumulator, tag: str) -> HParamsPluginData:
    data = events.summary_metadata[f"_hparams_/{tag}"].plugin_data.content
    return HParamsPluginData.FromString(data)


def test_values_that_are_not_finite_leave_a_gap(tmp_path: Path) -> None:
    write_events(tmp_path, {"a": {1: 0.5, 2: math.nan, 3: math.inf, 4: 0.25}, "b": {}})
    events = read(tmp_path)
    assert events.Tags()["scalars"] == ["a"]
    assert [(event.step, event.value) for event in events.Scalars("a")] == [(1, 0.5), (4, 0.25)]


def test_figures_keep_their_size(tmp_path: Path) -> None:
    write_events(tmp_path, {}, figures={"matrix": {7: Figure(figsize=(3, 2), dpi=50)}})
    (image,) = read(tmp_path).Images("matrix")
    assert (image.step, image.width, image.height) == (7, 150, 100)
    assert image.encoded_image_string.startswith(b"\x89PNG")


def test_a_row_has_its_settings_and_lists_its_metrics(tmp_path: Path) -> None:
    settings = {"name": "digits", "seed": 3, "batch": None}
    write_events(tmp_path, {"auc": {0: 0.5}}, row=HparamsRow("a", settings, ("auc",)))
    events = read(tmp_path)
    started = hparams(events, "session_start_info").session_start_info
    assert started.hparams["name"].string_value == "digits"
    assert started.hparams["seed"].number_value == 3
    assert set(started.hparams) == {"name", "seed"}
    listed = hparams(events, "experiment").experiment
    assert {info.name: info.type for info in listed.hparam_infos} == {
        "name": DATA_TYPE_STRING,
        "seed": DATA_TYPE_FLOAT64,
    }
    assert [info.name.tag for info in listed.metric_infos] == ["auc"]


def test_a_row_without_metrics_lists_none(tmp_path: Path) -> None:
    write_events(tmp_path, {}, row=HparamsRow("a", {"seed": 3}, failed=True))
    events = read(tmp_path)
    assert hparams(events, "session_end_info").session_end_info.status == STATUS_FAILURE
    with pytest.raises(KeyError):
        hparams(events, "experiment")
