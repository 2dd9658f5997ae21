from dataclasses import replace
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from bigbatch_ue.evaluation.report.tensorboard import write_tensorboard
from tests.helpers.records import clean, own


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


def test_each_arm_has_a_run_with_curves_matrix_and_hparams(tmp_path: Path) -> None:
    protected = own(0.25, countermeasure="jpeg10", seed=2)
    write_tensorboard(tmp_path / "tensorboard", [clean(), protected])
    names = [path.name for path in sorted((tmp_path / "tensorboard").iterdir())]
    assert names == [
        "digits-clean-none-0-own-resnet18-s0",
        "digits-uc-jpeg10-1-own-resnet18-b1024-r0-s2",
    ]
    events = read(tmp_path / "tensorboard" / names[1])
    for tag, values in (("accuracy/test", protected.accuracies), ("loss/train", protected.losses)):
        scalars = events.Scalars(tag)
        assert [event.step for event in scalars] == list(range(1, len(values) + 1))
        assert [event.value for event in scalars] == pytest.approx(values)
    assert events.Images("confusion")[0].width > 100
    metrics = ("final_accuracy", "peak_accuracy", "tail_std", "auc", "balanced_accuracy")
    for metric in metrics:
        assert events.Scalars(metric)[0].value == pytest.approx(getattr(protected, metric))
    started = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    settings = HParamsPluginData.FromString(started).session_start_info.hparams
    assert settings["countermeasure"].string_value == "jpeg10"
    assert settings["seed"].number_value == 2
    assert not [path for path in (tmp_path / "tensorboard").glob("*/*") if path.is_dir()]


def test_earlier_files_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "tensorboard" / "old").mkdir(parents=True)
    write_tensorboard(tmp_path / "tensorboard", [clean()])
    assert [path.name for path in tmp_path.rglob("tensorboard/*")] == [
        "digits-clean-none-0-own-resnet18-s0"
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["tensorboard"]


def test_arms_of_equal_names_have_their_own_runs(tmp_path: Path) -> None:
    twins = [clean(dataset=f"My{mark}set/{mark}", labels="map:/a/b/Two Kinds.csv") for mark in "?!"]
    write_tensorboard(tmp_path / "tensorboard", [*twins, replace(twins[0], target="x" * 300)])
    names = sorted(path.name for path in (tmp_path / "tensorboard").iterdir())
    assert names[:2] == [f"my-set-clean-none-0-two-kinds.csv-resnet18-s0{n}" for n in ("", "-2")]
    assert names[2].endswith("-s0")
    assert len(names[2]) < 255
