"""Training a run from its configuration to its artefacts, interrupted and continued."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bigbatch_ue.clustering.clusters import Clusters
from bigbatch_ue.files.formats import read_json
from bigbatch_ue.runs.folder import Run, load_run
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.training import loop
from bigbatch_ue.training.objective import ClusterwiseLoss
from bigbatch_ue.training.train import train
from tests.helpers.forked import Program
from tests.helpers.runs import TINY, perturbations, tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("train")


@pytest.fixture(scope="module")
def finished(folder: Path) -> Run:
    return train(tiny(folder))


def test_perturbations_are_within_the_bound_and_not_zero(finished: Run) -> None:
    delta = perturbations(finished)
    assert delta.shape == (3, 1, 8, 8)
    assert delta.dtype == torch.float32
    assert 0 < delta.abs().max() <= 16 / 255


def test_clusters_are_kept_with_the_run(finished: Run) -> None:
    clusters = Clusters.load(finished.clusters)
    assert len(clusters.assignment) == 300
    assert clusters.sizes.sum() == 300


def test_result_records_the_batch_really_used(finished: Run) -> None:
    result = read_json(finished.result)
    assert result["requested_batch"] == result["effective_batch"] == 8
    assert result["effective_batch_per_generator"] == [8, 8, 8]
    assert result["optimizer_steps"] == 6
    assert result["images_seen"] == 6 * 24
    assert (result["engine"], result["world_size"]) == ("single", 1)


def test_metrics_have_one_line_a_step(finished: Run) -> None:
    lines = [json.loads(line) for line in finished.metrics.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(6))
    assert all(len(line["loss"]) == 3 for line in lines)
    assert [line["images_seen"] for line in lines] == [24 * n for n in range(1, 7)]
    assert lines[0]["lr"] > lines[-1]["lr"]


def test_tensorboard_has_scalars_and_pictures(finished: Run) -> None:
    events = EventAccumulator(str(finished.folder / "tensorboard")).Reload()
    tags = events.Tags()
    expected = {"loss/cluster_00", "loss/mean", "lr", "images_per_s", "images_seen"}
    assert expected <= set(tags["scalars"])
    assert [e.step for e in events.Scalars("loss/mean")] == list(range(6))
    assert any(tag.startswith("perturbations") for tag in tags["images"])


def test_a_finished_run_has_no_checkpoints_and_is_not_trained_again(
    finished: Run, folder: Path
) -> None:
    assert not list(finished.folder.rglob("step-*"))
    before = {p: p.stat().st_mtime_ns for p in finished.folder.rglob("*") if p.is_file()}
    train(tiny(folder))
    train(tiny(folder), resume=True)
    assert before == {p: p.stat().st_mtime_ns for p in finished.folder.rglob("*") if p.is_file()}


def test_the_same_configuration_gives_the_same_perturbations(finished: Run, folder: Path) -> None:
    again = train(tiny(folder, name="again"))
    assert torch.equal(perturbations(again), perturbations(finished))


def test_invariant_1_micro_batches_and_gradient_paths_do_not_change_the_result(
    folder: Path,
) -> None:
    """With a few steps of SGD: Adam amplifies rounding."""
    sgd = ("optimizer.name=sgd", "optimizer.lr=0.05", "budget.steps=2")
    whole = perturbations(train(tiny(folder, *sgd, name="whole")))
    for name, *overrides in (
        ("micro", "batch.micro=4"),
        ("engine", "batch.micro=4", "batch.accumulation=engine"),
    ):
        run = train(tiny(folder, *sgd, *overrides, name=name))
        assert read_json(run.result)["micro_batches"] == 6
        assert (perturbations(run) - whole).norm() < 1e-4 * whole.norm()


def test_invariant_1_robust_views_do_not_depend_on_micro_batches(folder: Path) -> None:
    sgd = ("optimizer.name=sgd", "optimizer.lr=0.05", "budget.steps=2", "augment.robust=true")
    whole, micro = (
        perturbations(train(tiny(folder, *sgd, f"batch.micro={size}", name=f"robust{size}")))
        for size in (24, 5)
    )
    assert (micro - whole).norm() < 1e-3 * whole.norm()
    plain = perturbations(train(tiny(folder, *sgd, "augment.robust=false", name="plain")))
    assert (plain - whole).norm() > 1e-2 * whole.norm()


def test_agreement_is_said_before_training_and_kept(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(tiny(folder, "clusters.by=labels", "clusters.count=10", name="labels"))
    said = capsys.readouterr().err
    line = "clusters tell 100.0 % of the label (NMI 1.00, purity 1.00): good conditions"
    assert said.index(line) < said.index("effective batch")
    agreement = read_json(run.result, dict)["agreement"]
    assert (agreement["nmi"], agreement["purity"]) == (1, 1)
    assert np.array(agreement["table"]).shape == (10, 10)
    events = EventAccumulator(str(run.tensorboard)).Reload()
    assert [e.value for e in events.Scalars("agreement/nmi")] == [1]


@pytest.mark.parametrize("extend", ["cap", "views"])
def test_a_batch_beyond_the_data_is_capped_or_extended_by_views(folder: Path, extend: str) -> None:
    run = train(tiny(folder, "batch.effective=1000", f"batch.extend={extend}", name=extend))
    result = read_json(run.result)
    sizes = Clusters.load(run.clusters).sizes.tolist()
    assert result["requested_batch"] == 1000
    assert result["effective_batch"] == (max(sizes) if extend == "cap" else 1000)
    assert result["effective_batch_per_generator"] == (sizes if extend == "cap" else [1000] * 3)


def test_scope_all_passes_each_image_under_every_perturbation(folder: Path) -> None:
    run = train(tiny(folder, "batch.scope=all", name="all"))
    assert read_json(run.result)["images_seen"] == 6 * 24


def test_other_settings_in_the_same_folder_are_refused(finished: Run, folder: Path) -> None:
    with pytest.raises(UserError, match=r"optimizer\.lr"):
        train(tiny(folder, "optimizer.lr=0.5"))
    assert finished.finished


def test_another_data_set_in_the_same_folder_is_refused(finished: Run, folder: Path) -> None:
    state = finished.folder / "run.json"
    original = state.read_text()
    state.write_text(json.dumps({**json.loads(original), "answer": "0" * 12}))
    with pytest.raises(UserError, match="data set has changed"):
        train(tiny(folder))
    state.write_text(original)


def test_a_killed_run_resumes_to_the_bit_identical_result(folder: Path) -> None:
    long = ("budget.steps=40",)
    undisturbed = train(tiny(folder, *long, name="undisturbed"))
    config = tiny(folder, *long, name="killed")
    command = ["-m", "bigbatch_ue.train", "--preset", "digits", *TINY, *long]
    places = [f"data.root={config.data.root}", f"output={config.output}"]
    process = Program([*command, *places])
    checkpoints = config.run_folder / "checkpoints"
    while process.poll() is None and len(list(checkpoints.glob("step-*"))) < 2:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(UserError, match="add --resume"):
        train(config)
    with pytest.raises(UserError, match="not finished"):
        load_run(config.run_folder)
    run = train(config, resume=True)
    assert 0 < read_json(run.result)["resumed_at"] < 40
    assert torch.equal(perturbations(run), perturbations(undisturbed))
    steps = [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()]
    assert steps == list(range(40))


def test_a_run_that_cannot_start_leaves_no_folder(folder: Path) -> None:
    with pytest.raises(UserError, match="301"):
        train(tiny(folder, "clusters.count=301", name="impossible"))
    assert not (folder / "impossible").exists()


def poison(monkeypatch: pytest.MonkeyPatch, steps: set[int], generators: set[int]) -> None:
    """Let the losses of some generators be infinite in some steps."""
    take_step, now = loop.take_step, 0

    def poisoned(job: Any, engine: Any, step: int, *rest: Any) -> Any:
        nonlocal now
        now = step
        return take_step(job, engine, step, *rest)

    forward = ClusterwiseLoss.__call__

    def infinite(self: ClusterwiseLoss, delta: torch.Tensor, micro: Any) -> torch.Tensor:
        losses = forward(self, delta, micro)
        bad = torch.tensor([int(index) in generators for index in micro.generator]) & (now in steps)
        return losses + torch.where(bad, torch.inf, 0.0)

    monkeypatch.setattr(loop, "take_step", poisoned)
    monkeypatch.setattr(ClusterwiseLoss, "__call__", infinite)


@pytest.mark.parametrize("path", ["delta", "engine"])
def test_a_loss_that_is_not_finite_stops_and_names_step_clusters_and_images(
    path: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, {3}, {1, 2})
    name = f"diverged-{path}"
    with pytest.raises(UserError) as error:
        train(tiny(folder, f"batch.accumulation={path}", name=name))
    message = str(error.value)
    assert message.startswith("training diverged in step 4: loss or gradient is not finite in ")
    assert "cluster 1 (batch of 8 images: " in message
    assert "cluster 2 (batch of 8 images: " in message
    assert "cluster 0" not in message
    monkeypatch.undo()
    run = train(tiny(folder, f"batch.accumulation={path}", name=name), resume=True)
    assert read_json(run.result)["resumed_at"] == 2, "the state before it is kept"


def test_a_skipped_step_only_changes_the_count(
    finished: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip = "optimizer.nonfinite=skip"
    poison(monkeypatch, {1}, {0})
    run = train(tiny(folder, skip, name="skipped"))
    assert read_json(run.result)["skipped_steps"] == 1
    assert read_json(finished.result)["skipped_steps"] == 0
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert lines[1]["skipped"] == [0]
    assert [len(line.get("loss", ())) for line in lines] == [3, 0, 3, 3, 3, 3]
    before = [json.loads(line) for line in finished.metrics.read_text().splitlines()]
    assert lines[0]["loss"] == before[0]["loss"]
    assert lines[3]["loss"] != before[3]["loss"]

    class StoppedError(Exception):
        pass

    save = loop.save_checkpoint

    def stop_at_4(run: Run, checkpoint: Any, keep: int) -> None:
        save(run, checkpoint, keep)
        if checkpoint.step == 4:
            raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", stop_at_4)
        with pytest.raises(StoppedError):
            train(tiny(folder, skip, name="skipped-and-stopped"))
    again = train(tiny(folder, skip, name="skipped-and-stopped"), resume=True)
    assert read_json(again.result)["skipped_steps"] == 1
    assert torch.equal(perturbations(again), perturbations(run))


def test_training_stops_after_too_many_skipped_steps_in_a_row(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, set(range(1, 20)), {0})
    changed = ("optimizer.nonfinite=skip", "budget.steps=20")
    with pytest.raises(UserError, match="diverged in step 12"):
        train(tiny(folder, *changed, name="hopeless"))


def test_skipping_needs_the_delta_path(folder: Path) -> None:
    with pytest.raises(UserError, match=r"nonfinite=skip: needs batch\.accumulation=delta"):
        tiny(folder, "optimizer.nonfinite=skip", "batch.accumulation=engine")
