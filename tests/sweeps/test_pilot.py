"""The pilot of a sweep: the strength at which protection is midway, and what remains of it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from analysis.table.collect import collect
from bigbatch_ue.cli.commands import main
from bigbatch_ue.files.formats import write_json
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.sweeps.cells import Cell, sweep_cells
from bigbatch_ue.sweeps.jobs import run_sweep
from bigbatch_ue.sweeps.pilot import LADDER, midway_strengths, with_strengths
from bigbatch_ue.sweeps.spec import SweepSpec, load_sweep
from bigbatch_ue.sweeps.strength import PILOT, ChosenStrength, Trial, read_strengths
from tests.helpers.sweeps import write

CLEAN, CHANCE = 0.9, 0.1


def spec(folder: Path, **changed: Any) -> SweepSpec:
    return load_sweep(write(folder, strength="midway", **changed))


def accuracy_by(strength_of_half: float, cells: Sequence[Cell], seen: list[float]) -> None:
    """Write results of cells: accuracy falls from clean to chance, midway at a strength."""
    for cell in cells:
        eps = 255 * cell.config.generator.eps
        seen.append(round(eps))
        share = max(0.0, min(1.0, 1 - eps / (2 * strength_of_half)))
        own = CHANCE + (CLEAN - CHANCE) * share
        arms = [arm(name, value) for name, value in (("clean", CLEAN), ("uc", own))]
        write_json(cell.files.evaluation_results, arms)
        outcome = {"state": "finished", "reason": "", "seconds": 1.0}
        write_json(cell.files.outcome, {"cell": cell.axes, "outcome": outcome})


def arm(name: str, accuracy: float) -> dict[str, Any]:
    return {
        "dataset": "digits",
        "arm": name,
        "countermeasure": "none",
        "fraction": 1.0,
        "labels": "own",
        "target": "resnet18",
        "seed": 0,
        **dict.fromkeys(("final_accuracy", "peak_accuracy", "tail_mean"), accuracy),
        **dict.fromkeys(("train_accuracy", "balanced_accuracy", "auc"), accuracy),
        "tail_std": 0.0,
        "accuracies": [accuracy],
        "losses": [1.0],
        "confusion": [[1] * 10] * 10,
        "steps": 1,
        "images": 1,
        "seconds": 1.0,
    }


@pytest.mark.parametrize("rung", LADDER)
def test_the_nearest_strength_of_the_ladder_is_found_in_four_rounds(
    rung: int, tmp_path: Path
) -> None:
    seen: list[float] = []
    sweep = spec(tmp_path, seeds=[5, 7, 8])
    (chosen,) = midway_strengths(sweep, lambda cells: accuracy_by(rung, cells, seen))
    assert chosen.eps == rung / 255
    assert len(seen) <= 4 * 2, "two seeds a round"
    assert [chosen.clean, chosen.chance] == [CLEAN, CHANCE]
    assert [trial.eps for trial in chosen.trials] == sorted(eps / 255 for eps in set(seen))


@pytest.mark.parametrize(("half", "nearest"), [(0.3, 1), (100.0, 16), (13.2, 12), (14.9, 16)])
def test_beyond_and_between_the_rungs_the_nearest_is_taken(
    half: float, nearest: int, tmp_path: Path
) -> None:
    (chosen,) = midway_strengths(spec(tmp_path), lambda cells: accuracy_by(half, cells, []))
    assert chosen.eps == nearest / 255


def test_the_pilot_runs_at_the_middle_size_with_clean_images_and_protected_ones(
    tmp_path: Path,
) -> None:
    ran: list[Cell] = []

    def run(cells: Sequence[Cell]) -> None:
        ran.extend(cells)
        accuracy_by(8, cells, [])

    sweep = spec(
        tmp_path,
        batches=[2, 4, 8, "full"],
        budgets=["epochs", "steps"],
        seeds={"run": [3, 4, 5], "target": 2},
        datasets=["digits", {"preset": "digits", "settings": {"data": {"title": "again"}}}],
    )
    first, second = midway_strengths(sweep, run)
    assert [first.dataset, second.dataset] == ["digits", "again"]
    assert [first.batch, second.batch] == [4, 4]
    for cell in ran:
        assert cell.config.run_folder.is_relative_to(sweep.output / PILOT)
        assert cell.axes["budget"] == "steps"
        assert cell.config.seed in (3, 4)
        assert cell.config.evaluation.seeds == (0, 1)
        assert cell.config.evaluation.arms == ("clean", "uc")


def test_a_failed_cell_of_the_pilot_is_told(tmp_path: Path) -> None:
    def fail(cells: Sequence[Cell]) -> None:
        outcome = {"state": "failed", "reason": "out of memory", "seconds": 1.0}
        write_json(cells[0].files.outcome, {"cell": cells[0].axes, "outcome": outcome})

    with pytest.raises(UserError, match=r"^pilot: digits-b4-s0-.* failed \(out of memory\); mend"):
        midway_strengths(spec(tmp_path), fail)
    with pytest.raises(UserError, match=r"^pilot: another job is still running digits-b4-s0"):
        midway_strengths(spec(tmp_path / "running"), lambda cells: None)


def test_eps_and_a_pilot_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"generator\.eps is set by the sweep; use `strength`"):
        spec(tmp_path, settings={"generator": {"eps": 0.1}})
    given = load_sweep(write(tmp_path, settings={"generator": {"eps": 0.1}}))
    assert given.strength == "given"


def test_a_damaged_file_of_strengths_is_told(tmp_path: Path) -> None:
    (tmp_path / "strengths.json").write_text('[{"dataset": "digits"}]')
    with pytest.raises(UserError, match=r"strengths\.json: not written by a sweep \(.*\); run the"):
        read_strengths(tmp_path)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> SweepSpec:
    """A real sweep with a pilot, run to its end."""
    sweep = spec(tmp_path_factory.mktemp("pilot"), batches=[2, 4, 8])
    run_sweep(sweep)
    return sweep


def test_a_sweep_runs_at_the_strength_that_its_pilot_chose(
    swept: SweepSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    (chosen,) = read_strengths(swept.output)
    cells = sweep_cells(with_strengths(swept, [chosen]))
    assert len(cells) == 6
    assert all(cell.outcome().finished for cell in cells)  # type: ignore[union-attr]
    assert {cell.config.generator.eps for cell in cells} == {chosen.eps}
    before = {path: path.stat().st_mtime_ns for path in swept.output.rglob("outcome.json")}
    run_sweep(swept)
    after = {path: path.stat().st_mtime_ns for path in swept.output.rglob("outcome.json")}
    assert after == before, "nothing is run again"
    assert f"digits: eps {round(255 * chosen.eps)}/255, the nearest" in capsys.readouterr().err


def test_the_report_says_the_strength_and_leaves_the_pilot_out(
    swept: SweepSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    collection = collect([swept.output])
    assert collection.problems == ()
    assert sorted(set(collection.table["effective_batch"])) == [2, 4, 8]
    assert len(collection.table) == 6
    (sentence,) = collection.strengths
    assert sentence == str(read_strengths(swept.output)[0])
    from analysis.cli import main as analyse

    folder = str(swept.output)
    analyse(["collect", folder])
    analyse(["report", f"{folder}/analysis"])
    capsys.readouterr()
    for page in ("report.md", "report.html"):
        text = (swept.output / "analysis" / page).read_text()
        assert "Strength of the perturbations" in text
        assert "in a pilot at B = 4: " in text.replace("\N{NO-BREAK SPACE}", " ")


def test_a_dry_run_says_that_a_pilot_comes_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, strength="midway")
    main(["sweep", "--config", str(file), "--dry-run"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "a pilot of up to 8 cells first chooses generator.eps" in printed
    assert not (tmp_path / "sweep").exists()


def test_a_sentence_gives_all_that_was_tried() -> None:
    trials = (Trial(eps=4 / 255, accuracies=(0.8, 0.7)), Trial(eps=8 / 255, accuracies=(0.5,)))
    chosen = ChosenStrength(
        dataset="x", batch=1024, clean=0.9, chance=0.2, eps=8 / 255, trials=trials
    )
    assert str(chosen) == (
        "x: eps 8/255, the nearest to midway (55.0 %) between clean images (90.0 %) and guessing "
        "(20.0 %) in a pilot at B = 1,024: 75.0 % at 4/255, 50.0 % at 8/255"
    )
    assert ChosenStrength.model_validate(json.loads(chosen.model_dump_json())) == chosen
