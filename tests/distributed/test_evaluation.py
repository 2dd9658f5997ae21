"""Evaluation on two real ranks: the results of one."""

from pathlib import Path
from typing import Any

import pytest
import torch

from bigbatch_ue.files.formats import read_json
from bigbatch_ue.files.tensor_files import read_tensors, write_tensors
from tests.distributed.evaluation_worker import main as evaluate_trained
from tests.distributed.evaluation_worker import network
from tests.helpers.forked import run_ranks
from tests.helpers.records import same
from tests.helpers.runs import QUICK, make_run

WORKER = str(Path(__file__).with_name("evaluation_worker.py"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"), *QUICK)


@pytest.fixture(scope="module")
def outs(run: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """What the worker wrote as one process and as two ranks, of the same trained target."""
    folder = tmp_path_factory.mktemp("worker")
    torch.manual_seed(0)
    model = network()
    for _ in range(3):
        model(torch.rand(16, 1, 8, 8))  # running statistics that are not the initial ones
    weights = folder / "weights.safetensors"
    write_tensors(weights, model.state_dict(), {})
    one, two = folder / "one", folder / "two"
    evaluate_trained(run, weights, one)
    run_ranks("ddp", 2, [WORKER, str(run), str(weights), str(two)])
    return [one, two]


def test_invariant_5_one_and_two_ranks_agree_exactly_on_a_trained_target(outs: list[Path]) -> None:
    one, two = (read_tensors(out / "scores.safetensors")[0]["scores"] for out in outs)
    assert one.shape == (360, 10)
    assert torch.equal(one, two)
    assert len(one.argmax(1).unique()) > 1
    assert read_json(outs[0] / "measures.json") == read_json(outs[1] / "measures.json")


def test_target_trained_by_two_ranks_together_is_that_of_one(outs: list[Path]) -> None:
    one, two = (read_json(out / "arms.json") for out in outs)
    assert [arm["countermeasure"] for arm in two] == ["none", "none", "cutmix"]
    for alone, shared in zip(one, two, strict=True):
        assert (alone["ranks"], shared["ranks"]) == (1, 2)
        assert shared["steps"] == alone["steps"] == 2 * 6
        assert shared["losses"] == pytest.approx(alone["losses"], rel=1e-3)
        assert shared["final_accuracy"] == pytest.approx(alone["final_accuracy"], abs=0.02)
        hits = shared["final_accuracy"] * 360
        assert hits == pytest.approx(round(hits), abs=1e-3)


def test_two_ranks_share_the_arms_with_the_results_of_one(run: Path, tmp_path: Path) -> None:
    def records(name: str, ranks: int) -> list[dict[str, Any]]:
        command = ["evaluate", str(run), "evaluation.seeds=[0, 1]", f"data.root={tmp_path / name}"]
        run_ranks("ddp" if ranks > 1 else "single", ranks, ["-m", "bigbatch_ue", *command])
        records = read_json(run / "evaluation" / "results.json")
        (run / "evaluation" / "results.json").unlink()
        return [same(record) for record in records]

    one = records("one", ranks=1)
    assert len(one) == 6
    assert records("two", ranks=2) == one
