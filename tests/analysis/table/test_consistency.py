"""Runs whose records contradict one another are left out, with the reason."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from bigbatch_ue.files.formats import read_json, write_json
from bigbatch_ue.files.tensor_files import read_tensors, write_tensors
from tests.helpers.collected import change_record, reason_left_out
from tests.helpers.runs import make_evaluated_run


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"effective_batch": 16}, "result.json: effective_batch is 16, but 8 is expected"),
        ({"requested_batch": 9}, "requested_batch is 9"),
        (
            {"effective_batch_per_generator": [8, 8, 7]},
            "effective_batch_per_generator is (8, 8, 7)",
        ),
        ({"optimizer_steps": 9}, "optimizer_steps is 9, but 10 is expected"),
        ({"images_seen": 1}, "images_seen is 1"),
        ({"seed": 5}, "seed is 5"),
        ({"dataset": "pets"}, "dataset is pets"),
        ({"scope": "all"}, "scope is all"),
    ],
)
def test_a_result_that_disagrees_with_its_run(
    changed: dict[str, Any], message: str, run: Path
) -> None:
    change_record(run / "result.json", **changed)
    assert message in reason_left_out(run)


def test_a_configuration_that_was_changed_afterwards(run: Path) -> None:
    path = run / "config.yaml"
    content = yaml.safe_load(path.read_text())
    content["batch"]["effective"] = 16
    path.write_text(yaml.safe_dump(content))
    assert "config.yaml or the data set has changed since training" in reason_left_out(run)


def test_other_data(run: Path) -> None:
    change_record(run / "run.json", data="0123456789ab")
    assert "the data set has changed since training" in reason_left_out(run)


def test_fewer_logged_steps(run: Path) -> None:
    path = run / "metrics.jsonl"
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[:-1]))
    assert "metrics.jsonl: steps is 9, but 10 is expected" in reason_left_out(run)


@pytest.mark.parametrize("name", ["clusters", "perturbations"])
def test_tensors_of_another_run(name: str, run: Path) -> None:
    path = run / f"{name}.safetensors"
    tensors, about = read_tensors(path)
    write_tensors(path, tensors, about | {"answer": "0" * 12})
    assert f"{name}.safetensors: answer is 000000000000" in reason_left_out(run)


def test_clusters_that_do_not_give_the_recorded_steps(run: Path) -> None:
    path = run / "clusters.safetensors"
    tensors, about = read_tensors(path)
    tensors["assignment"] = tensors["assignment"].clamp(max=1).repeat(2)
    write_tensors(path, tensors, about)
    assert "optimizer_steps is 10, but 20 is expected" in reason_left_out(run)


def test_an_evaluation_of_another_run(run: Path) -> None:
    path = run / "evaluation" / "results.json"
    write_json(path, [arm | {"run_seed": 7} for arm in read_json(path)])
    message = "evaluation of shuffled clusters: run_seed is 7, but 0 is expected"
    assert message in reason_left_out(run)


def test_a_batch_that_the_clusters_capped(tmp_path: Path) -> None:
    run = make_evaluated_run(
        tmp_path,
        "capped",
        "batch.extend=cap",
        "batch.effective=64",
        "evaluation.arms=[uc]",
        "evaluation.seeds=[0]",
        "evaluation.fractions=[1.0]",
    )
    assert "images capped the batch of 64 at" in reason_left_out(run)
