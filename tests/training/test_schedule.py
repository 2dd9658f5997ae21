"""Runs whose effective batch changes: exact in every decomposition, and resumed in a segment."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from bigbatch_ue.cli.commands import main
from bigbatch_ue.config.schema import Config
from bigbatch_ue.data.decoded import prepare_dataset
from bigbatch_ue.files.formats import read_json
from bigbatch_ue.runs.folder import Run
from bigbatch_ue.runtime.accelerator import start_accelerator
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.signals import Interrupted, StopRequest
from bigbatch_ue.training.train import train, train_on
from tests.helpers.command_line import cli_of
from tests.helpers.runs import perturbations, tiny

POINTS = ("batch.schedule=[[0, 4], [3, 9]]", "batch.effective=9")
SGD = ("optimizer.name=sgd", "optimizer.lr=0.05")
AUTO = ("batch.effective=auto", "budget.steps=30", "batch.micro=40")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("schedule")


@pytest.fixture(scope="module")
def scheduled(folder: Path) -> Run:
    return train(tiny(folder, *POINTS, name="scheduled"))


@pytest.fixture(scope="module")
def chosen(folder: Path) -> Run:
    return train(tiny(folder, *AUTO, name="chosen"))


def train_until(step: int, config: Config) -> None:
    """Train, and stop with a checkpoint after `step` steps."""
    stop, looks = StopRequest(), []

    def reason(ahead: float = 0.0) -> str | None:
        looks.append(ahead)
        return "enough" if len(looks) == step else None

    stop.reason = reason  # type: ignore[method-assign]
    with pytest.raises(Interrupted, match=f"stopped after step {step} "):
        train_on(start_accelerator(), config, prepare_dataset(config.data), stop=stop)


def lines(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def test_the_result_has_the_mean_batch_and_every_image(scheduled: Run) -> None:
    result = read_json(scheduled.result)
    assert result["requested_batch"] == 9
    assert result["effective_batch"] == 7  # of 6.5
    assert result["images_seen"] == 3 * (3 * 4 + 3 * 9)
    assert result["chosen_batch"] is None
    assert [line["effective_batch"] for line in lines(scheduled)] == [4] * 3 + [9] * 3
    assert [line["images_seen"] for line in lines(scheduled)] == [12, 24, 36, 63, 90, 117]


def test_a_constant_schedule_is_a_fixed_batch_to_the_bit(folder: Path) -> None:
    fixed = train(tiny(folder, "batch.effective=8", name="fixed"))
    listed = train(tiny(folder, "batch.schedule=[[0, 8], [2, 8]]", name="listed"))
    assert torch.equal(perturbations(fixed), perturbations(listed))


@pytest.mark.parametrize("step", [2, 3, 5])
def test_a_run_that_stops_in_a_segment_resumes_to_the_bit(
    step: int, folder: Path, scheduled: Run
) -> None:
    config = tiny(folder, *POINTS, "checkpoint.every=1000", name=f"stopped{step}")
    train_until(step, config)
    run = train(config, resume=True)
    assert read_json(run.result)["resumed_at"] == step
    assert torch.equal(perturbations(run), perturbations(scheduled))


def test_invariant_1_micro_batches_and_gradient_paths_do_not_change_a_schedule(
    folder: Path,
) -> None:
    steps = ("batch.schedule=[[0, 4], [1, 9]]", "batch.effective=9", "budget.steps=2")
    whole = perturbations(train(tiny(folder, *SGD, *steps, name="whole")))
    for path in ("delta", "engine"):
        more = ("batch.micro=4", f"batch.accumulation={path}")
        run = train(tiny(folder, *SGD, *steps, *more, name=path))
        assert read_json(run.result)["micro_batches"] == 7
        assert (perturbations(run) - whole).norm() < 1e-4 * whole.norm()


def test_auto_chooses_the_power_of_two_next_to_the_noise_scale(
    chosen: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    result = read_json(chosen.result)
    choice = result["chosen_batch"]
    assert (choice["first"], choice["step"]) == (64, 6)
    moments = [line["noise"]["delta"] for line in lines(chosen)[:6]]
    scales = []
    for cluster in range(3):
        trace, signal = (
            math.fsum(step[name][cluster] for step in moments) for name in ("trace", "signal")
        )
        scales.append(trace / signal if signal > 0 else math.inf)
    scale = sorted(scales)[1]
    assert choice["noise_scale"] == pytest.approx(scale)
    assert choice["batch"] == min(2 ** round(math.log2(max(scale, 1))), 100)
    assert [line["effective_batch"] for line in lines(chosen)] == [64] * 6 + [choice["batch"]] * 24
    assert result["requested_batch"] == choice["batch"]
    assert result["effective_batch"] == math.floor((6 * 64 + 24 * choice["batch"]) / 30 + 0.5)


@pytest.mark.parametrize("step", [3, 6, 9])
def test_a_choice_is_kept_when_the_run_resumes(step: int, folder: Path, chosen: Run) -> None:
    config = tiny(folder, *AUTO, "checkpoint.every=1000", name=f"auto{step}")
    train_until(step, config)
    run = train(config, resume=True)
    assert read_json(run.result)["chosen_batch"] == read_json(chosen.result)["chosen_batch"]
    assert torch.equal(perturbations(run), perturbations(chosen))


def test_invariant_1_the_noise_that_chooses_does_not_depend_on_micro_batches(
    folder: Path, chosen: Run
) -> None:
    one = train(tiny(folder, *AUTO, "batch.micro=7", name="seven"))
    for ours, theirs in zip(lines(one)[:1], lines(chosen)[:1], strict=True):
        for name in ("trace", "signal"):
            values = (line["noise"]["delta"][name] for line in (ours, theirs))
            assert next(values) == pytest.approx(next(values), rel=1e-3)
    ours, theirs = (read_json(run.result)["chosen_batch"] for run in (one, chosen))
    assert ours["batch"] == theirs["batch"]


def test_auto_says_what_it_will_do_and_what_it_has_done(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = (f"data.root={folder / 'data'}", f"output={folder / 'said'}")
    cli = cli_of(main, capsys)
    budget = ("budget.kind=epochs", "budget.epochs=4", "data.limit=300", "data.size=8")
    given = ("--preset", "digits", *budget, "clusters.count=3", "batch.effective=auto", *places)
    code, out, _ = cli("plan", *given)
    assert code == 0
    said = " ".join(out.replace("│", " ").split())
    assert "starts with B = 64; after 2 steps the gradient noise scale chooses B" in said
    assert "and with it the number of steps" in said
    run = train(tiny(folder, *budget, "batch.effective=auto", name="said"))
    said = capsys.readouterr().err
    result = read_json(run.result)
    choice = result["chosen_batch"]
    assert "starts with B = 64; after 2 steps" in said
    assert f"after step 2; B = {choice['batch']}" in said
    assert len(lines(run)) == result["optimizer_steps"]


def test_an_unknown_noise_scale_keeps_the_first_batch_and_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One image a cluster has no spread."""
    one_each = ("data.limit=10", "clusters.by=labels", "clusters.count=auto")
    run = train(tiny(folder, *one_each, "batch.effective=auto", "budget.steps=5", name="unknown"))
    result = read_json(run.result)
    assert result["chosen_batch"] == {"batch": 1, "first": 1, "step": 1, "noise_scale": None}
    assert "noise scale not to be told after step 1; B stays 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("batch.effective=auto", "batch.accumulation=engine"), "batch.accumulation=delta only"),
        (("batch.effective=auto", "batch.schedule=[[0, 4]]"), "not together"),
        (("batch.effective=auto", "budget.steps=1"), "the run has a single step"),
    ],
)
def test_auto_is_refused_where_it_cannot_choose(
    settings: tuple[str, ...], message: str, folder: Path
) -> None:
    with pytest.raises(UserError, match=message):
        train(tiny(folder, *settings, name="refused"))
