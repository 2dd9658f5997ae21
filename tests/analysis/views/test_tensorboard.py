import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from analysis.findings.findings import Findings, analyse
from analysis.findings.sizes import summarise_sizes
from analysis.views.tensorboard import METRICS, SETTINGS, write_tensorboard
from tests.helpers.findings import a_table

BATCHES = (2, 8, 32, 128)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    table = a_table(("digits",), batches=BATCHES, seeds=2, failures=(("digits", 2, 1),))
    again = table.assign(target_seed=table["target_seed"] + 10)
    return pd.concat([table, again.assign(final_accuracy=again["final_accuracy"] + 0.1)])


@pytest.fixture(scope="module")
def findings(table: pd.DataFrame) -> Findings:
    return analyse(table, draws=500)


@pytest.fixture(scope="module")
def board(
    tmp_path_factory: pytest.TempPathFactory, table: pd.DataFrame, findings: Findings
) -> Path:
    folder = tmp_path_factory.mktemp("board") / "tensorboard"
    (folder / "old").mkdir(parents=True)
    write_tensorboard(table, findings, folder)
    return folder


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


def plugin_data(events: EventAccumulator, tag: str) -> HParamsPluginData:
    return HParamsPluginData.FromString(
        events.summary_metadata[f"_hparams_/{tag}"].plugin_data.content
    )


def test_a_board_takes_the_place_of_an_older_one_whole(board: Path) -> None:
    assert sorted(path.name for path in board.iterdir()) == ["curves", "runs"]
    assert [path.name for path in board.parent.iterdir()] == ["tensorboard"]


def test_every_curve_is_a_run_whose_steps_are_batches(
    board: Path, table: pd.DataFrame, findings: Findings
) -> None:
    names = sorted(path.name for path in (board / "curves").iterdir())
    assert names == [
        f"digits-protected-{budget}-none-cluster-0123456789abcdef" for budget in ("epochs", "steps")
    ]
    events = read(board / "curves" / names[0])
    found = summarise_sizes(findings.findings[0], table)
    for tag, name in {
        "accuracy/mean": "mean",
        "instability/seeds": "std",
        "instability/oscillation": "oscillation",
        "speed/images_per_second": "images_per_second",
        "memory/peak_mib": "memory",
    }.items():
        expected = {s.batch: getattr(s, name) for s in found if math.isfinite(getattr(s, name))}
        values = {event.step: event.value for event in events.Scalars(tag)}
        assert values == pytest.approx(expected, rel=1e-6)
    assert [event.step for event in events.Scalars("instability/seeds")] == [8, 32, 128]


def test_the_fit_and_its_interval_are_drawn_at_the_batches(board: Path, findings: Findings) -> None:
    mean = findings.findings[1].mean
    assert mean is not None
    events = read(board / "curves" / "digits-protected-steps-none-cluster-0123456789abcdef")
    for tag, values in (("fit", mean.mean), ("low", mean.low), ("high", mean.high)):
        drawn = events.Scalars(f"accuracy/{tag}")
        assert [event.step for event in drawn] == list(BATCHES)
        assert drawn[0].value == pytest.approx(values[0], rel=1e-6)
        assert drawn[-1].value == pytest.approx(values[-1], rel=1e-6)


def test_every_run_is_a_row_of_the_hparams_page(board: Path, table: pd.DataFrame) -> None:
    assert len(list((board / "runs").iterdir())) == 2 * len(BATCHES) * 2
    events = read(board / "runs" / "digits-protected-steps-none-cluster-0123456789abcdef-b32-s1")
    settings = plugin_data(events, "session_start_info").session_start_info.hparams
    assert set(settings) == set(SETTINGS)
    assert settings["effective_batch"].number_value == 32
    assert settings["budget"].string_value == "steps"
    ended = plugin_data(events, "session_end_info").session_end_info
    assert ended.status == STATUS_SUCCESS
    where = "budget == 'steps' and effective_batch == 32 and seed == 1"
    rows = table.query(where)
    assert len(rows) == 2
    for metric in METRICS:
        (event,) = events.Scalars(metric)
        assert event.value == pytest.approx(np.mean(rows[metric]), rel=1e-6)


def test_a_failed_run_is_a_row_without_metrics(board: Path) -> None:
    events = read(board / "runs" / "digits-protected-epochs-none-cluster-0123456789abcdef-b2-s1")
    assert plugin_data(events, "session_end_info").session_end_info.status == STATUS_FAILURE
    assert events.Tags()["scalars"] == []


def test_runs_whose_names_come_out_alike_have_folders_of_their_own(tmp_path: Path) -> None:
    tables = [a_table(("digits",), batches=(2,), seeds=1, budgets=("steps",)) for _ in "?!"]
    table = pd.concat(
        [t.assign(dataset=f"My{mark}set") for t, mark in zip(tables, "?!", strict=True)]
    )
    write_tensorboard(table, analyse(table), tmp_path / "board")
    names = sorted(path.name for path in (tmp_path / "board" / "runs").iterdir())
    stem = "my-set-protected-steps-none-cluster-0123456789abcdef-b2-s0"
    assert names == [stem, f"{stem}-2"]
