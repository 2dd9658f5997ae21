from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from bigbatch_ue import evaluate as module
from bigbatch_ue import fit
from bigbatch_ue.artefacts import read_json
from bigbatch_ue.config import ArmName
from bigbatch_ue.data import DataSet, prepare
from bigbatch_ue.errors import UserError
from bigbatch_ue.evaluate import Arm, arms_table, evaluate, random_noise, train_arm
from bigbatch_ue.protect import Perturbations, eight_bit, load_perturbations, protected_images
from bigbatch_ue.run import load_run
from tests.test_protect import make_run

CPU = torch.device("cpu")
ARMS = tuple(ArmName)
SMALL = (
    "data.name=digits",
    "data.size=8",
    "data.limit=160",
    "target.model=resnet18",
    "target.args={channels: [4, 4, 8, 8]}",
    "target.fit={epochs: 2, batch: 32, lr: 0.05}",
    "augment={pad: 1}",
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arms trained in this test, in order."""
    names: list[str] = []

    def counting(name: Any, *rest: Any) -> Arm:
        names.append(name)
        return train_arm(name, *rest)

    monkeypatch.setattr(module, "train_arm", counting)
    return names


def the_arm(**changed: Any) -> Arm:
    arm = Arm("uc", 0, 0.412, 0.55, [0.55, 0.412], "resnet18", 345, 12.34, 1024, 60, "digest")
    return replace(arm, **changed)


def test_invariant_5_every_arm_has_one_recipe(tmp_path: Path) -> None:
    """Protected with no perturbation at all, a network is the clean one, bit for bit."""
    run = make_run(tmp_path, *SMALL, scale=0.0)
    arms = {arm.name: arm for arm in evaluate(run)}
    assert arms["uc"].accuracies == arms["clean"].accuracies
    assert arms["random_noise"].accuracies != arms["clean"].accuracies
    assert len({arm.train_steps for arm in arms.values()}) == 1


def test_invariant_5_every_test_image_counts_once_and_is_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, *SMALL, "target.fit.epochs=1")
    data = prepare(load_run(run)[0].data)
    seen: list[np.ndarray[Any, Any]] = []
    predict = fit.predict

    def watching(model: Any, images: Any, device: Any) -> torch.Tensor:
        seen.append(np.array(images))
        return predict(model, images, device)

    monkeypatch.setattr(fit, "predict", watching)
    for arm in evaluate(run):
        hits = arm.final_accuracy * len(data.test)
        assert hits == pytest.approx(round(hits), abs=1e-3)
    assert len(data.test) == 360
    assert len(seen) == len(ARMS)
    for images in seen:
        np.testing.assert_array_equal(images, data.test.images)


def test_arms_are_resumed_one_by_one(
    tmp_path: Path, trainings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, *SMALL, "target.fit.epochs=1")
    through = module.train_arm

    def interrupted(name: Any, *rest: Any) -> Arm:
        if name == "uc":
            raise KeyboardInterrupt
        return through(name, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(module, "train_arm", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluate(run)
    assert [record["name"] for record in read_json(run / "evaluation.json")] == list(ARMS[:2])
    arms = evaluate(run)
    assert trainings == list(ARMS)
    before = (run / "evaluation.json").stat().st_mtime_ns
    assert evaluate(run) == arms
    assert trainings == list(ARMS)
    assert (run / "evaluation.json").stat().st_mtime_ns == before
    evaluate(run, seeds=[0, 1])
    assert trainings == [*ARMS, *ARMS]
    records = read_json(run / "evaluation.json")
    assert [(r["seed"], r["name"]) for r in records] == [(s, n) for s in (0, 1) for n in ARMS]
    assert [r["effective_batch"] for r in records[:3]] == [None, None, 4]
    assert [r["optimizer_steps"] for r in records[:3]] == [0, 0, 7]


def test_other_perturbations_train_only_what_depends_on_them(
    tmp_path: Path, trainings: list[str]
) -> None:
    run = make_run(tmp_path, *SMALL, "target.fit.epochs=1")
    evaluate(run)
    make_run(tmp_path, *SMALL, "target.fit.epochs=1", scale=0.5)
    arms = evaluate(run)
    assert trainings == [*ARMS, "uc"]
    assert len(read_json(run / "evaluation.json")) == len(arms) == 3


def test_known_arms_are_not_trained_again(tmp_path: Path, trainings: list[str]) -> None:
    first = make_run(tmp_path / "a", *SMALL, "target.fit.epochs=1")
    second = make_run(tmp_path / "b", *SMALL, "target.fit.epochs=1", scale=0.5)
    known = evaluate(first)
    arms = evaluate(second, known=known)
    assert trainings == [*ARMS, "uc"]
    assert arms[:2] == known[:2]
    assert arms[2] != known[2]
    assert len(read_json(second / "evaluation.json")) == 3


def test_same_seed_same_network_other_seed_another(tmp_path: Path) -> None:
    run = make_run(tmp_path, *SMALL)
    config, _ = load_run(run)
    data = prepare(config.data)
    arms = [
        train_arm(ArmName.CLEAN, data.train.images, data, config, seed, CPU) for seed in (0, 0, 1)
    ]
    assert arms[0].accuracies == arms[1].accuracies != arms[2].accuracies
    assert arms[0].peak_accuracy == max(arms[0].accuracies)
    assert arms[0].final_accuracy == arms[0].accuracies[-1]
    assert arms[0].train_steps == 2 * 5


def test_initial_weights_depend_on_the_seed_alone_and_not_on_earlier_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, *SMALL)
    config, _ = load_run(run)
    data = prepare(config.data)
    started: list[torch.Tensor] = []

    def not_training(model: torch.nn.Module, *_: Any, **__: Any) -> list[float]:
        started.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        return [0.5]

    monkeypatch.setattr(module, "train_classifier", not_training)
    for name in ARMS:
        torch.rand(3)
        train_arm(name, data.train.images, data, config, 0, CPU)
    train_arm(ArmName.CLEAN, data.train.images, data, config, 1, CPU)
    assert torch.equal(started[0], started[1])
    assert torch.equal(started[0], started[2])
    assert not torch.equal(started[0], started[3])


@pytest.mark.parametrize("eps", [16 / 255, 0.05])
def test_control_is_eps_of_random_sign_with_the_same_clusters(eps: float) -> None:
    delta = np.zeros((4, 3, 32, 32), np.float32)
    learnt = Perturbations(delta, np.arange(8) % 4, eps)
    noise = random_noise(learnt, 0)
    units = eight_bit(noise.delta, eps)
    assert set(np.unique(units)) == {-int(255 * eps + 1e-6), int(255 * eps + 1e-6)}
    assert abs(np.sign(units).mean()) < 0.05
    assert noise.assignment is learnt.assignment
    grey = np.full((8, 3, 32, 32), 128, np.uint8)
    images = protected_images(grey, **vars(noise))
    np.testing.assert_array_equal(images[0], images[4])
    assert (images[0] != images[1]).any()
    assert (random_noise(learnt, 1).delta != noise.delta).any()
    np.testing.assert_array_equal(random_noise(learnt, 0).delta, noise.delta)


def test_protected_images_are_what_the_uc_arm_trains_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, *SMALL)
    config, finished = load_run(run)
    data = prepare(config.data)
    given: dict[str, Any] = {}

    def not_training(name: Any, images: Any, data: DataSet, *_: Any) -> Arm:
        given[name] = np.array(images)
        return the_arm(name=name)

    monkeypatch.setattr(module, "train_arm", not_training)
    evaluate(run)
    learnt = load_perturbations(config, finished, data)
    np.testing.assert_array_equal(given["clean"], data.train.images)
    expected = protected_images(data.train.images, **vars(learnt))
    np.testing.assert_array_equal(given["uc"], expected)
    change = given["random_noise"].astype(int) - data.train.images
    assert np.abs(change).max() == np.abs(given["uc"].astype(int) - data.train.images).max() == 16


def test_more_than_one_process_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="one process"):
        evaluate(tmp_path)


def test_torn_or_foreign_records_are_a_user_error(tmp_path: Path) -> None:
    run = make_run(tmp_path, *SMALL)
    for content in ('[{"name": "clean"', '[{"name": "clean"}]', "3"):
        (run / "evaluation.json").write_text(content)
        with pytest.raises(UserError, match=r"evaluation\.json"):
            evaluate(run)


def test_table_is_readable_in_80_columns() -> None:
    console = Console(width=80, record=True)
    console.print(arms_table([the_arm(), the_arm(name="clean", effective_batch=None)]))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    row = next(line for line in text.splitlines() if "protected" in line)
    for shown in ("1,024", "60", "41.2", "55.0", "12.3"):
        assert shown in row
    assert "…" not in text
