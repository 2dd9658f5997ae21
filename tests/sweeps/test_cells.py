"""The cells of a sweep: their names, their axes and their outcomes."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bigbatch_ue.files.formats import write_json
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.sweeps.cells import Cell, sweep_cells
from bigbatch_ue.sweeps.spec import base_config, load_sweep
from tests.helpers.images import make_images
from tests.helpers.sweeps import TINY, write

EXAMPLES = Path(__file__).parents[2] / "analysis" / "examples"


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


def test_data_sets_of_a_sweep_have_names_that_differ(tmp_path: Path) -> None:
    datasets = []
    for clinic in ("clinic_a", "clinic_b"):
        images = make_images(tmp_path / clinic / "images", [(8, 8)] * 4)
        Image.new("RGB", (8, 8), clinic == "clinic_a").save(next(images.rglob("*.png")))
        datasets.append({"preset": "small", "settings": {"data": {"name": f"folder:{images}"}}})
    own: dict[str, Any] = {"seeds": [0], "batches": [2], "datasets": datasets}
    names = [cell.axes["dataset"] for cell in sweep_cells(load_sweep(write(tmp_path, **own)))]
    assert names == ["clinic_a-images", "clinic_b-images"]
    datasets[0]["settings"]["data"]["title"] = "A"
    names = [cell.axes["dataset"] for cell in sweep_cells(load_sweep(write(tmp_path, **own)))]
    assert names == ["A", "clinic_b-images"]


def test_a_cell_is_found_again_where_its_images_were_copied_to(tmp_path: Path) -> None:
    def cell(place: Path) -> Cell:
        images = {"preset": "small", "settings": {"data": {"name": f"folder:{place}"}}}
        own: dict[str, Any] = {"seeds": [0], "batches": [2], "datasets": [images]}
        (found,) = sweep_cells(load_sweep(write(tmp_path, **own)))
        return found

    images = make_images(tmp_path / "images", [(8, 8)] * 4)
    first = cell(images)
    first.files.folder.mkdir(parents=True)
    shutil.copytree(images, tmp_path / "scratch", copy_function=shutil.copyfile)
    assert cell(tmp_path / "scratch").files.folder == first.files.folder


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


def test_every_run_is_evaluated_with_every_target_seed(tmp_path: Path) -> None:
    def evaluated(seeds: Any, **changed: Any) -> list[tuple[int, tuple[int, ...]]]:
        cells = sweep_cells(load_sweep(write(tmp_path, batches=[4], seeds=seeds, **changed)))
        return [(cell.config.seed, cell.config.evaluation.seeds) for cell in cells]

    assert evaluated({"run": 2, "target": 3}) == [(0, (0, 1, 2)), (1, (0, 1, 2))]
    assert evaluated({"run": [5, 3], "target": [8]}) == [(5, (8,)), (3, (8,))]
    assert evaluated([5, 3]) == [(5, (5,)), (3, (3,))]
    settings = {**TINY, "evaluation": {"seeds": [7, 9]}}
    assert evaluated([5], settings=settings) == [(5, (7, 9))]


def test_a_bare_list_and_its_mapping_name_the_same_folders(tmp_path: Path) -> None:
    """tests/repository/golden.json has the names that older sweeps gave."""

    def names(seeds: Any) -> list[str]:
        return [cell.name for cell in sweep_cells(load_sweep(write(tmp_path, seeds=seeds)))]

    assert names([0, 1]) == names({"run": 2}) == names({"run": [0, 1], "target": None})
    assert not {*names([0, 1])} & {*names({"run": 2, "target": 2})}


def test_a_damaged_outcome_is_named(tmp_path: Path) -> None:
    sweep = load_sweep(write(tmp_path))
    cell = sweep_cells(sweep)[0]
    write_json(cell.files.outcome, {"outcome": {"state": "finished"}})
    with pytest.raises(UserError, match=r"outcome\.json: invalid outcome of a cell"):
        cell.outcome()


def test_the_study_can_be_swept() -> None:
    sweep = load_sweep(EXAMPLES / "study" / "sweep.yaml")
    assert sweep.batches.sizes(5000) == [8, 32, 64, 128, 256, 512, 1024, 2048]
    assert sweep.strength == "midway"
    for dataset in sweep.datasets:
        config = base_config(sweep, dataset, 0, "cluster")
        assert config.optimizer.lr == pytest.approx(1e-4)
        assert config.generator.eps == pytest.approx(16 / 255)


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*/*.yaml")), ids=lambda file: file.stem)
def test_the_sweeps_of_the_examples_are_valid(file: Path) -> None:
    sweep = load_sweep(file)
    for dataset in sweep.datasets:
        config = base_config(sweep, dataset, 0, sweep.scopes[0])
        assert config.budget.steps > 0
    assert len(sweep.batches.sizes(2**16)) >= 6


def test_a_ramp_ends_with_each_batch_and_knows_its_mean(tmp_path: Path) -> None:
    ramp = {"batch": {"schedule": {"ramp_from": 2, "ramp_steps": 3}}}
    own = {"preset": "digits", "settings": ramp}
    cells = sweep_cells(load_sweep(write(tmp_path, datasets=[own], seeds=[0])))
    assert [cell.config.batch.effective for cell in cells] == [4, 16]
    assert [cell.axes["mean_batch"] for cell in cells] == [3, 9]  # of 2, 3, 3, 4 and 2, 7, 11, 16
    assert "-b2to16-" in cells[1].name
    own["settings"] = {"batch": {"schedule": [[0, 4], [2, 8]]}}
    with pytest.raises(UserError, match="a list fixes the batches, which the sweep varies"):
        sweep_cells(load_sweep(write(tmp_path, datasets=[own])))
