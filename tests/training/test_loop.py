"""The training loop: checkpoints in time, and orderly stops from which nothing is lost."""

import json
import signal
import time
from pathlib import Path

import pytest
import torch

from bigbatch_ue.cli.commands import main
from bigbatch_ue.data.decoded import prepare_dataset
from bigbatch_ue.files.formats import read_json
from bigbatch_ue.runs.folder import Run
from bigbatch_ue.runtime.accelerator import start_accelerator
from bigbatch_ue.runtime.signals import EXIT_INTERRUPTED, Interrupted, StopRequest
from bigbatch_ue.training.engine import Engine
from bigbatch_ue.training.train import train, train_on
from tests.helpers.command_line import cli_of
from tests.helpers.forked import Program
from tests.helpers.processes import logged, perturbations_in, wait_for_steps
from tests.helpers.runs import TINY, tiny

LONG = ("budget.steps=60", "checkpoint.every=1000")


def command(folder: Path, name: str) -> list[str]:
    """A training command, whose run is `folder / name`."""
    places = [f"data.root={folder / 'data'}", f"output={folder / name}"]
    return ["train", "--preset", "digits", *TINY, *LONG, *places]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("interrupt")


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Run:
    return train(tiny(folder, *LONG, name="undisturbed"))


def test_a_signal_makes_a_checkpoint_at_the_next_step(folder: Path, undisturbed: Run) -> None:
    name = "SIGTERM"
    process = Program(["-m", "bigbatch_ue", *command(folder, name)])
    wait_for_steps(folder / name, 3, process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == EXIT_INTERRUPTED
    (checkpoint,) = (folder / name / "checkpoints").iterdir()
    done = logged(folder / name)
    assert checkpoint.stem == f"step-{done:08d}", "no step is lost"
    last = said.splitlines()[-1]
    assert last.startswith(f"error: {name}: stopped after step {done} of 60")
    assert "--resume" in last

    run = train(tiny(folder, *LONG, name=name), resume=True)
    assert read_json(run.result)["resumed_at"] == done
    assert torch.equal(perturbations_in(run.folder), perturbations_in(undisturbed.folder))
    assert [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()] == [
        *range(60)
    ]


def test_a_time_limit_does_the_same(
    folder: Path, undisturbed: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    cli = cli_of(main, capsys)
    code, _, said = cli(*command(folder, "limited"), "--time-limit", "0")
    assert code == EXIT_INTERRUPTED
    assert "time limit of 0 min: stopped after step 1 of 60" in said
    run = train(tiny(folder, *LONG, name="limited"), resume=True)
    assert torch.equal(perturbations_in(run.folder), perturbations_in(undisturbed.folder))


def test_checkpoints_come_after_minutes_too(folder: Path) -> None:
    config = tiny(folder, "budget.steps=4", "checkpoint.every=1000", name="often")
    often = config.model_copy(
        update={"checkpoint": config.checkpoint.model_copy(update={"minutes": 1e-9})}
    )
    stop = StopRequest()
    seen: list[int] = []
    reason = stop.reason

    def look(ahead: float = 0.0) -> str | None:
        seen.append(len(list((often.run_folder / "checkpoints").glob("step-*"))))
        return reason(ahead)

    stop.reason = look  # type: ignore[method-assign]
    train_on(start_accelerator(), often, prepare_dataset(often.data), stop=stop)
    assert seen == [0, 1, 2, 2]  # asked in each of the four steps; two checkpoints are kept


def test_a_time_limit_counts_the_update_of_the_generators(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked before them, and they may take most of a step."""
    limit, update, backward = 4.0, 1.0, Engine.backward
    began: list[float] = []

    def slow(self: Engine, loss: torch.Tensor) -> None:
        time.sleep(update)
        backward(self, loss)

    def reason(ahead: float = 0.0) -> str | None:
        began.append(time.monotonic())
        return "limit" if began[0] + limit - began[-1] < ahead else None

    stop = StopRequest()
    stop.reason = reason  # type: ignore[method-assign]
    monkeypatch.setattr(Engine, "backward", slow)
    config = tiny(folder, *LONG, name="in-time")
    with pytest.raises(Interrupted, match=r"^limit: stopped after step [23] of 60"):
        train_on(start_accelerator(), config, prepare_dataset(config.data), stop=stop)
    assert time.monotonic() - began[0] < limit
