"""The cells of a sweep: their names, their axes and their outcomes."""

from pathlib import Path
from typing import Any

import pytest

from bigbatch_ue.files.formats import write_json
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.sweeps.cells import base_config, sweep_cells
from bigbatch_ue.sweeps.spec import load_sweep
from tests.helpers.sweeps import write


def test_cells_are_keyed_by_all_that_decides_their_answer(tmp_path: Path) -> None:
    def names(**settings: Any) -> set[str]:
        own = {"preset": "digits", "settings": settings}
        return {cell.name for cell in sweep_cells(load_sweep(write(tmp_path, datasets=[own])))}

    plain = names()
    assert len(plain) == 4
    assert names(batch={"micro": 7}) == plain
    for other in (
        {"optimizer": {"lr": 0.5}},
        {"target": {"fit": {"epochs": 3}}},
        {"data": {"limit": 100}},
        {"evaluation": {"arms": ["uc"]}},
    ):
        assert not names(**other) & plain


def test_cells_take_every_axis(tmp_path: Path) -> None:
    sweep = load_sweep(
        write(
            tmp_path,
            budgets=["epochs", "steps"],
            lr_rules=["none", "sqrt"],
            scopes=["cluster", "all"],
            batches=["full", 4],
        )
    )
    axes = [cell.axes for cell in sweep_cells(sweep)]
    assert len(axes) == 2 * 2 * 2 * 2 * 2
    assert {a["effective_batch"] for a in axes if a["scope"] == "all"} == {4, 120}
    assert {a["effective_batch"] for a in axes if a["scope"] == "cluster"} == {4, 40}
    assert {a["seed"] for a in axes[:16]} == {0}
    first = sweep_cells(sweep)[0].config
    assert first.evaluation.seeds == (0,)
    assert first.batch.extend == "views"


def test_a_damaged_outcome_is_named(tmp_path: Path) -> None:
    sweep = load_sweep(write(tmp_path))
    cell = sweep_cells(sweep)[0]
    write_json(cell.files.outcome, {"outcome": {"state": "finished"}})
    with pytest.raises(UserError, match=r"outcome\.json: invalid outcome of a cell"):
        cell.outcome()


def test_the_study_can_be_swept() -> None:
    (file,) = (Path(__file__).parents[2] / "analysis").rglob("study/sweep.yaml")
    sweep = load_sweep(file)
    assert sweep.batches.sizes(5000) == [32, 64, 128, 256, 512, 1024]
    for dataset in sweep.datasets:
        config = base_config(sweep, dataset, 0, "cluster")
        assert config.optimizer.lr == pytest.approx(1e-4)
        assert config.generator.eps == pytest.approx(16 / 255)
