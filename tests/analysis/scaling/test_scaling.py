"""From benchmark records to a table, figures and curves."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from analysis.cli import main
from analysis.scaling.table import (
    COLUMNS,
    RECORDS,
    fastest,
    read_records,
    scaling_table,
    workloads,
    write_scaling,
)
from analysis.scaling.tensorboard import write_scaling_tensorboard
from analysis.scaling.views import plot_scaling, scaling_figure, terminal_table
from bigbatch_ue.runtime.errors import UserError
from tests.helpers.command_line import cli_of

ENGINES = (("single", 1), ("ddp", 2), ("fsdp2", 2), ("zero1", 2), ("zero2", 2), ("zero3", 2))


def a_record(**changed: Any) -> dict[str, Any]:
    record = {
        "session": "a1b2c3",
        "round": 0,
        "device": "AMD EPYC, 2 cores",
        "engine": "single",
        "ranks": 1,
        "path": "delta",
        "model": "resnet50",
        "size": 224,
        "clusters": 10,
        "generator_width": 64,
        "precision": "bf16",
        "effective_batch": 256,
        "micro_batch": 8,
        "images": 2560,
        "step_s": 100.0,
        "images_per_s": 25.6,
        "model_flops": 2.0e13,
        "peak_flops": 5.0e11,
        "peak_memory_mib": 1500.0,
        "bytes_per_step": 0.0,
    }
    return record | changed


def a_bench() -> list[dict[str, Any]]:
    """Return three rounds of two workloads, all engines and paths, B from 256 to 65,536."""
    random = np.random.default_rng(5)
    speeds = {"baseline": 6.2, "engine": 15.0, "delta": 27.0}
    return [
        a_record(
            session=f"{model}-{engine}",
            round=number,
            model=model,
            size=size,
            engine=engine,
            ranks=ranks,
            path=path,
            precision="float32" if path == "baseline" else "bf16",
            effective_batch=batch,
            images=10 * batch,
            images_per_s=(speed := rate * ranks**0.9 * faster * random.uniform(0.96, 1.04)),
            step_s=10 * batch / speed,
            bytes_per_step=6.2e8 * (ranks - 1) * (1 if path == "delta" else batch / 256),
        )
        for model, size, faster in (("resnet50", 224, 1.0), ("resnet18", 32, 40.0))
        for engine, ranks in ENGINES
        for number in range(3)
        for batch in (256, 1024, 4096, 16384, 65536)
        for path, rate in speeds.items()
    ]


def write(folder: Path, records: list[dict[str, Any]], end: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / RECORDS).write_text(lines + end)
    return folder


def table_of(folder: Path, *records: dict[str, Any]) -> pd.DataFrame:
    return scaling_table(read_records([write(folder, list(records))])[0])


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return table_of(tmp_path_factory.mktemp("bench"), *a_bench())


def test_repetitions_become_medians_with_their_spread(tmp_path: Path) -> None:
    speeds, steps, memory = (20.0, 30.0, 26.0), (128.0, 80.0, 100.0), (1500.0, 1510.0, 1490.0)
    records = [
        a_record(round=number, images_per_s=speed, step_s=step, peak_memory_mib=mib)
        for number, (speed, step, mib) in enumerate(zip(speeds, steps, memory, strict=True))
    ]
    table = table_of(tmp_path, *records)
    assert list(table) == list(COLUMNS)
    (row,) = table.to_dict("records")
    assert (row["images_per_s"], row["images_per_s_low"], row["images_per_s_high"]) == (26, 20, 30)
    assert (row["step_s"], row["peak_memory_mib"], row["repetitions"]) == (100, 1510, 3)
    assert row["mfu"] == pytest.approx(2e13 / 100 / 5e11)
    assert math.isnan(row["ratio_to_baseline"])


def test_records_of_earlier_versions_are_read(tmp_path: Path) -> None:
    table = table_of(tmp_path, *(a_record(energy_j=joules) for joules in (None, 2560.0)))
    assert list(table) == list(COLUMNS)
    assert table["repetitions"].tolist() == [2]


def test_a_ratio_pairs_only_within_its_session_round_workload_and_batch(tmp_path: Path) -> None:
    base = {"path": "baseline", "precision": "float32"}
    table = table_of(
        tmp_path,
        a_record(images_per_s=30.0),
        a_record(**base, images_per_s=10.0),
        a_record(round=1, images_per_s=40.0),
        a_record(**base, round=1, images_per_s=8.0),
        a_record(**base, round=2, images_per_s=1.0),
        a_record(session="other", images_per_s=35.0),
        a_record(effective_batch=512),
        a_record(model="resnet18"),
    )
    mine, larger = table.query("path == 'delta' and model == 'resnet50'").to_dict("records")
    assert [mine[name] for name in ("ratio_to_baseline", "ratio_low", "ratio_high")] == [4, 3, 5]
    assert mine["repetitions"] == 3
    assert math.isnan(larger["ratio_to_baseline"])
    assert table.query("model == 'resnet18'")["ratio_to_baseline"].isna().all()


def test_a_baseline_of_the_same_micro_batch_or_else_the_fastest_counts(
    tmp_path: Path,
) -> None:
    baselines = [
        a_record(path="baseline", micro_batch=micro, images_per_s=speed)
        for micro, speed in ((8, 5.0), (16, 10.0), (32, 8.0))
    ]
    deltas = [a_record(micro_batch=micro, images_per_s=20.0) for micro in (8, 64)]
    table = table_of(tmp_path, *baselines, *deltas)
    ratios = table[table["path"] == "delta"].set_index("micro_batch")["ratio_to_baseline"]
    assert ratios.to_dict() == {8: 4, 64: 2}


def test_rows_are_sorted_by_workload_engine_and_path(table: pd.DataFrame, tmp_path: Path) -> None:
    assert len(table) == 2 * 6 * 3 * 5
    assert table["model"].drop_duplicates().tolist() == ["resnet18", "resnet50"]
    first = table[table["model"] == "resnet50"]
    assert first["engine"].drop_duplicates().tolist() == [engine for engine, _ in ENGINES]
    assert first["path"].head(15).drop_duplicates().tolist() == ["baseline", "engine", "delta"]
    assert first["effective_batch"].head(5).is_monotonic_increasing
    assert [title for title, _ in workloads(table)] == [
        "resnet18, 32 px, 10 clusters on AMD EPYC, 2 cores",
        "resnet50, 224 px, 10 clusters on AMD EPYC, 2 cores",
    ]
    path = write_scaling(table, tmp_path)
    pd.testing.assert_frame_equal(pd.read_csv(path), table)
    assert [file.name for file in tmp_path.iterdir()] == ["scaling.csv"]


def test_the_width_of_generators_is_in_the_title_where_only_it_differs(tmp_path: Path) -> None:
    table = table_of(tmp_path, a_record(), a_record(generator_width=8), a_record(size=32))
    assert [title.removesuffix(" on AMD EPYC, 2 cores") for title, _ in workloads(table)] == [
        "resnet50, 32 px, 10 clusters",
        "resnet50, 224 px, 10 clusters, width 8",
        "resnet50, 224 px, 10 clusters, width 64",
    ]


def test_folders_are_read_together_and_each_once(tmp_path: Path) -> None:
    one = write(tmp_path / "one", [a_record(extra="ignored")])
    two = write(tmp_path / "two", [a_record(session="other")])
    records, notes = read_records([one, two, tmp_path / "two" / ".." / "one"])
    assert records["session"].tolist() == ["a1b2c3", "other"]
    assert notes == []


def test_an_incomplete_last_line_is_skipped_with_a_note(tmp_path: Path) -> None:
    torn = json.dumps(a_record(device="Grün"), ensure_ascii=False).encode()
    folder = write(tmp_path, [a_record()])
    for end in (10, torn.index("ü".encode()) + 1, len(torn) - 1):
        whole = json.dumps(a_record()).encode() + b"\n"
        (folder / RECORDS).write_bytes(whole + torn[:end])
        records, notes = read_records([folder])
        assert len(records) == 1
        assert notes == [f"{folder / RECORDS}, line 2: incomplete, skipped"]
    (folder / RECORDS).write_bytes(whole + torn)
    assert len(read_records([folder])[0]) == 2


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "Invalid JSON"),
        ("[1]", "should be an object"),
        (json.dumps(a_record() | {"path": "fast"}), "path: "),
        (json.dumps(a_record() | {"step_s": 0.0}), "step_s: "),
        (json.dumps(a_record() | {"step_s": math.inf}), "step_s: "),
        (json.dumps(a_record() | {"micro_batch": "8"}), "micro_batch: "),
        (json.dumps({k: v for k, v in a_record().items() if k != "step_s"}), "step_s: "),
    ],
)
def test_any_other_bad_line_is_named(line: str, says: str, tmp_path: Path) -> None:
    folder = write(tmp_path, [a_record()], end=line + "\n" + json.dumps(a_record()))
    with pytest.raises(UserError) as error:
        read_records([folder])
    assert str(error.value).startswith(f"{folder / RECORDS}, line 2: ")
    assert says in str(error.value)


def test_a_bad_line_at_the_end_is_incomplete_only_without_a_line_feed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"line 2: invalid record \(Invalid JSON"):
        read_records([write(tmp_path, [a_record()], end="{\n")])


def test_no_records_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not found"):
        read_records([tmp_path])
    with pytest.raises(UserError, match="no records"):
        read_records([write(tmp_path, [], end="{")])


def test_of_several_micro_batches_the_fastest_is_drawn(tmp_path: Path) -> None:
    records = [
        a_record(effective_batch=batch, micro_batch=micro, images_per_s=speed)
        for batch, micro, speed in (
            (256, 8, 20.0),
            (256, 16, 30.0),
            (512, 8, 25.0),
            (512, 16, 24.0),
        )
    ]
    table = table_of(tmp_path / "bench", *records)
    best = fastest(table)
    assert best["effective_batch"].tolist() == [256, 512]
    assert best["micro_batch"].tolist() == [16, 8]
    ((title, rows),) = workloads(table)
    lines = scaling_figure(title, rows).axes[0].lines
    assert [np.asarray(line.get_ydata()).tolist() for line in lines] == [[30], [25]]
    write_scaling_tensorboard(table, tmp_path / "tensorboard")
    (curve,) = (tmp_path / "tensorboard").glob("*/*")
    found = EventAccumulator(str(curve)).Reload().Scalars("speed/images_per_second")
    assert [(event.step, event.value) for event in found] == [(256, 30), (512, 25)]


def test_a_figure_has_a_distinct_line_for_each_curve(table: pd.DataFrame) -> None:
    title, rows = next(workloads(table))
    figure = scaling_figure(title, rows)
    speed, step, memory, traffic = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "images per second",
        "seconds per step",
        "peak memory of a rank, MiB",
        "sent per step",
    ]
    assert len(speed.lines) == len(speed.collections) == 18
    assert len({line.get_color() for line in speed.lines}) == 6
    for colour in {line.get_color() for line in speed.lines}:
        same = [line for line in speed.lines if line.get_color() == colour]
        assert len({line.get_linestyle() for line in same}) >= 2
    assert len([line for line in speed.lines if line.get_markerfacecolor() == "w"]) == 6
    assert {line.get_marker() for line in speed.lines} == {"o", "s", "^"}
    assert {line.get_markersize() for line in speed.lines} == {5.5, 7.5}
    assert [axes.get_xscale() for axes in (speed, step)] == ["log", "log"]
    assert [axes.get_yscale() for axes in (speed, step, memory)] == ["linear", "log", "linear"]
    assert [tick.get_text() for tick in speed.get_xticklabels()] == [
        "256",
        "1,024",
        "4,096",
        "16,384",
        "65,536",
    ]
    (bars, *_) = speed.collections
    ends = [np.asarray(path.vertices)[:, 1].tolist() for path in bars.get_paths()]
    first = rows.iloc[:5]
    assert ends == first[["images_per_s_low", "images_per_s_high"]].to_numpy().tolist()
    words = {text.get_text() for text in figure.findobj(Text)}
    assert words >= {
        title,
        "zero3",
        "delta path",
        "baseline",
        "1 rank",
        "2 ranks",
        "hollow: float32",
    }
    points = {line.get_markersize(): np.size(line.get_xdata()) for line in traffic.lines}
    assert points == {5.5: 0, 7.5: 5}


def test_a_quantity_that_no_row_has_has_no_panel(tmp_path: Path) -> None:
    figure = scaling_figure("one", table_of(tmp_path, a_record()))
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "images per second",
        "seconds per step",
        "peak memory of a rank, MiB",
    ]


def test_the_training_of_a_target_has_a_row_but_no_ratio_and_no_figure(tmp_path: Path) -> None:
    baseline = a_record(path="baseline", images_per_s=10.0)
    target = a_record(path="target", images_per_s=900.0)
    other = a_record(path="target", images_per_s=900.0, model="resnet18")
    table = table_of(tmp_path, a_record(), baseline, target, other)
    of_targets = table[table["path"] == "target"]
    assert of_targets["images_per_s"].tolist() == [900.0, 900.0]
    assert of_targets["ratio_to_baseline"].isna().all()
    assert table["ratio_to_baseline"].dropna().tolist() == pytest.approx([1.0, 2.56])
    paths = plot_scaling(table, tmp_path / "plots")
    assert {path.stem for path in paths} == {"resnet50-224-px-10-clusters-on-amd-epyc-2-cores"}


def test_targets_alone_have_no_figure_and_none_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "bench", [a_record(path="target")])
    code, out, _ = cli_of(main, capsys)("scaling", folder)
    assert code == 0
    assert "1 row of 1 record; next: tensorboard" in " ".join(out.split())


def test_figures_have_the_same_bytes_every_time(table: pd.DataFrame, tmp_path: Path) -> None:
    first, second = (plot_scaling(table, tmp_path / name) for name in "ab")
    stems = [f"resnet{n}-10-clusters-on-amd-epyc-2-cores" for n in ("18-32-px", "50-224-px")]
    assert [path.name for path in first] == [
        f"{s}.{kind}" for s in stems for kind in ("png", "svg")
    ]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_curves_for_tensorboard_have_batches_as_steps(table: pd.DataFrame, tmp_path: Path) -> None:
    write_scaling_tensorboard(table, tmp_path / "tensorboard")
    workload = tmp_path / "tensorboard" / "resnet50-224-px-10-clusters-on-amd-epyc-2-cores"
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    assert len(list(workload.iterdir())) == 18
    events = EventAccumulator(str(workload / "zero2-2-delta-bf16")).Reload()
    mine = table.query("model == 'resnet50' and engine == 'zero2' and path == 'delta'")
    for tag, name in {
        "speed/images_per_second": "images_per_s",
        "speed/seconds_per_step": "step_s",
        "speed/mfu": "mfu",
        "memory/peak_mib": "peak_memory_mib",
        "traffic/bytes_per_step": "bytes_per_step",
    }.items():
        values = {event.step: event.value for event in events.Scalars(tag)}
        expected = dict(zip(mine["effective_batch"], mine[name], strict=True))
        assert values == pytest.approx(expected, rel=1e-6)


def lines_of(title: str, rows: pd.DataFrame) -> list[str]:
    console = Console(width=80, no_color=True)
    with console.capture() as capture:
        console.print(terminal_table(title, rows))
    return capture.get().splitlines()


def test_a_terminal_of_80_columns_shows_every_number_whole(table: pd.DataFrame) -> None:
    for title, rows in workloads(table):
        lines = lines_of(title, rows)
        assert max(map(len, lines)) <= 80
        assert not any("…" in line for line in lines)
        *_, last = (line for line in lines if " 65,536 " in line)
        row = rows.iloc[-1]
        assert last.split()[:3] == ["delta", "65,536", "8"]
        assert last.split()[5] == f"{row['ratio_to_baseline']:.3g}"
        half = (row["images_per_s_high"] - row["images_per_s_low"]) / 2 / row["images_per_s"]
        assert last.split()[4] == f"±{100 * half:.0f}"
        assert last.split()[-1] == "620"
        assert sum("zero3 ×2" in line for line in lines) == 1
        assert "baseline in float32, engine in bf16, delta in bf16" in " ".join(
            " ".join(lines[-4:]).split()
        )


def test_columns_without_numbers_are_left_out(tmp_path: Path) -> None:
    text = "\n".join(lines_of("one", table_of(tmp_path, a_record(), a_record(precision="tf32"))))
    assert "ratio" not in text
    assert "sent" not in text
    assert "±1" not in text
    assert "delta bf16" in text


def test_the_command_writes_all_of_it_and_says_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "bench", a_bench()[:15], end='{"session": "a1')
    code, out, _ = cli_of(main, capsys)("scaling", folder)
    assert code == 0
    first, *_, last = out.splitlines()
    assert first == f"{folder / RECORDS}, line 16: incomplete, skipped"
    where = folder / "scaling"
    assert last == (
        f"{where / 'scaling.csv'}: 15 rows of 15 records; plots: {where / 'plots'}; "
        f"next: tensorboard --logdir {where / 'tensorboard'}"
    )
    assert {path.name for path in where.iterdir()} == {"scaling.csv", "plots", "tensorboard"}
    assert cli_of(main, capsys)("scaling", folder, "--out", tmp_path / "out")[0] == 0
    assert (tmp_path / "out" / "scaling.csv").exists()


def test_a_bad_record_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path, [a_record(round="first")])
    code, out, err = cli_of(main, capsys)("scaling", folder)
    assert (code, out) == (2, "")
    assert f"{folder / RECORDS}, line 1: invalid record (round: " in err
    assert err.count("\n") == 1
    assert [path.name for path in folder.iterdir()] == [RECORDS]
