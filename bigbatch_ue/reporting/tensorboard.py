"""Event files for TensorBoard: scalars, figures and rows of the HPARAMS page, without torch."""

import io
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import (
    DATA_TYPE_FLOAT64,
    DATA_TYPE_STRING,
    STATUS_FAILURE,
    STATUS_SUCCESS,
    Experiment,
    HParamInfo,
    MetricInfo,
    MetricName,
)
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

Series = Mapping[int, float]
"""Values by step."""


@dataclass(frozen=True)
class HparamsRow:
    """A row of the HPARAMS page.

    Attributes:
        name: different for each row.
        settings: value of each column; None leaves the cell empty.
        metrics: tags of the scalars to show; empty leaves the choice to TensorBoard.
        failed: whether the run failed.
    """

    name: str
    settings: Mapping[str, str | float | None]
    metrics: Sequence[str] = ()
    failed: bool = False


def write_events(
    folder: Path,
    scalars: Mapping[str, Series],
    *,
    figures: Mapping[str, Mapping[int, Figure]] | None = None,
    row: HparamsRow | None = None,
) -> None:
    """Write the event file of one TensorBoard run.

    Args:
        folder: folder of the run.
        scalars: series by tag; a value that is not finite leaves a gap.
        figures: figures by tag and step.
        row: row of the HPARAMS page.
    """
    writer = EventFileWriter(str(folder))
    now = time.time()
    for summary in _row_summaries(row) if row else ():
        writer.add_event(Event(wall_time=now, summary=summary))
    for step, value in (*_scalar_values(scalars), *_image_values(figures or {})):
        writer.add_event(Event(wall_time=now, step=step, summary=Summary(value=[value])))
    writer.close()


def _scalar_values(scalars: Mapping[str, Series]) -> Iterator[tuple[int, Any]]:
    for tag, series in scalars.items():
        for step, value in series.items():
            if math.isfinite(value):
                yield step, Summary.Value(tag=tag, simple_value=value)


def _image_values(figures: Mapping[str, Mapping[int, Figure]]) -> Iterator[tuple[int, Any]]:
    for tag, by_step in figures.items():
        for step, figure in by_step.items():
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png")
            with Image.open(buffer) as picture:
                image = Summary.Image(
                    width=picture.width,
                    height=picture.height,
                    colorspace=len(picture.getbands()),
                    encoded_image_string=buffer.getvalue(),
                )
            yield step, Summary.Value(tag=tag, image=image)


def _row_summaries(row: HparamsRow) -> list[Any]:
    """Return what adds a row to the HPARAMS page: its columns if listed, its start and its end."""
    settings = {name: value for name, value in row.settings.items() if value is not None}
    start = hparams_pb(settings, trial_id=row.name)
    status = STATUS_FAILURE if row.failed else STATUS_SUCCESS
    ended = HParamsPluginData(session_end_info=SessionEndInfo(status=status))
    end = _hparams_summary(metadata.SESSION_END_INFO_TAG, ended)
    if not row.metrics:
        return [start, end]
    columns = Experiment(
        hparam_infos=[
            HParamInfo(
                name=name, type=DATA_TYPE_STRING if isinstance(value, str) else DATA_TYPE_FLOAT64
            )
            for name, value in settings.items()
        ],
        metric_infos=[MetricInfo(name=MetricName(tag=tag)) for tag in row.metrics],
    )
    listed = _hparams_summary(metadata.EXPERIMENT_TAG, HParamsPluginData(experiment=columns))
    for summary in (listed, start, end):  # as torch writes them: readers find no tensors
        summary.value[0].ClearField("tensor")
    return [listed, start, end]


def _hparams_summary(tag: str, data: Any) -> Any:
    value = Summary.Value(
        tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR
    )
    return Summary(value=[value])
