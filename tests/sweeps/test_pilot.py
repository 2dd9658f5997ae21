"""The pilot of a sweep: the strength at which protection is midway, and what remains of it."""

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
from filelock import SoftFileLease
from PIL import Image

from analysis.table.collect import collect
from bigbatch_ue.cli.commands import main
from bigbatch_ue.config.load import load_config
from bigbatch_ue.files.formats import write_json
from bigbatch_ue.runs.folder import RunFiles
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.sweeps import jobs
from bigbatch_ue.sweeps.cells import Cell, Outcome, sweep_cells
from bigbatch_ue.sweeps.folder import PILOT
from bigbatch_ue.sweeps.jobs import run_sweep
from bigbatch_ue.sweeps.pilot import LADDER, midway_strengths, with_strengths
from bigbatch_ue.sweeps.spec import SweepSpec, load_sweep
from bigbatch_ue.sweeps.strength import ChosenStrength, Trial, read_strengths
from bigbatch_ue.sweeps.worker import Worker
from tests.helpers.images import make_images
from tests.helpers.sweeps import write

CLEAN, CHANCE = 0.9, 0.1


def spec(folder: Path, **changed: Any) -> SweepSpec:
    return load_sweep(write(folder, strength="midway", **changed))


def accuracy_by(strength_of_half: float, cells: Sequence[Cell], seen: list[float]) -> None:
    """Write results of cells: accuracy falls from clean to chance, midway at a strength."""
    for cell in cells:
        eps = 255 * cell.config.generator.eps
        seen.append(round(eps))
        write_json(cell.files.evaluation_results, results_at(eps, strength_of_half))
        outcome = {"state": "finished", "reason": "", "seconds": 1.0}
        write_json(cell.files.outcome, {"cell": cell.axes, "outcome": outcome})


def results_at(eps: float, strength_of_half: float) -> list[dict[str, Any]]:
    share = max(0.0, min(1.0, 1 - eps / (2 * strength_of_half)))
    own = CHANCE + (CLEAN - CHANCE) * share
    return [arm(name, value) for name, value in (("clean", CLEAN), ("uc", own))]


def first_round(sweep: SweepSpec) -> list[Cell]:
    """Return the cells with which the pilot begins."""
    found: list[Cell] = []

    def stop(cells: Sequence[Cell]) -> None:
        found.extend(cells)
        raise InterruptedError

    with suppress(InterruptedError):
        midway_strengths(sweep, stop)
    return found


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


def test_data_sets_of_one_name_are_told_apart_as_in_the_sweep(tmp_path: Path) -> None:
    datasets = []
    for clinic in ("north", "south"):
        images = make_images(tmp_path / clinic / "images", [(8, 8)] * 4)
        Image.new("RGB", (8, 8), clinic == "north").save(next(images.rglob("*.png")))
        datasets.append({"settings": {"data": {"name": f"folder:{images}"}}})
    sweep = spec(tmp_path, datasets=datasets, batches=[2])
    strengths = midway_strengths(sweep, lambda cells: accuracy_by(8, cells, []))
    assert [each.dataset for each in strengths] == ["north-images", "south-images"]
    cells = sweep_cells(with_strengths(sweep, strengths))
    assert {cell.config.data.shown_as for cell in cells} == {"north-images", "south-images"}


def test_a_job_waits_for_cells_of_the_pilot_that_another_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits however long that takes, since all jobs need the result."""
    monkeypatch.setattr(jobs, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0.05)
    sweep = spec(tmp_path, batches=[4], seeds=[0])

    def run(self: Worker, folder: Path, **_: Any) -> Outcome:
        eps = load_config(file=RunFiles(folder).cell).generator.eps
        write_json(RunFiles(folder).evaluation_results, results_at(255 * eps, 8))
        return Outcome("finished", "", 1.0)

    monkeypatch.setattr(Worker, "run", run)
    (first,) = first_round(sweep)
    claim = sweep.output / PILOT / "claims" / f"{first.name}.lock"
    claim.parent.mkdir(parents=True)
    lease = SoftFileLease(claim, lease_duration=jobs.LEASE_SECONDS, thread_local=False)
    lease.acquire()
    Timer(1.0, lease.release).start()
    assert [outcome and outcome.state for _, outcome in run_sweep(sweep)] == ["finished"]
    assert [each.eps for each in read_strengths(sweep.output)] == [8 / 255]


def test_a_failed_pilot_continues_with_retry_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, broken, ran = spec(tmp_path, batches=[4], seeds=[0]), [True], list[str]()

    def run(self: Worker, folder: Path, **_: Any) -> Outcome:
        ran.append(folder.name)
        if broken[0]:
            return Outcome("failed", "out of memory", 1.0)
        eps = load_config(file=RunFiles(folder).cell).generator.eps
        write_json(RunFiles(folder).evaluation_results, results_at(255 * eps, 8))
        return Outcome("finished", "", 1.0)

    monkeypatch.setattr(Worker, "run", run)
    for broken[0] in (True, False):
        with pytest.raises(UserError, match=r"failed \(out of memory\); mend that, then start"):
            run_sweep(sweep)
    assert len(ran) == 1
    (done,) = run_sweep(sweep, retry=True)
    assert done[1] is not None
    assert done[1].finished
    assert ran.count(ran[0]) == 2
    assert len(ran) == len(set(ran)) + 1


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


def test_a_dry_run_after_the_pilot_lists_the_cells_at_the_strength_it_chose(
    swept: SweepSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["sweep", "--config", str(swept.output / "sweep.yaml"), "--dry-run"])
    printed = " ".join(capsys.readouterr().out.split())
    (chosen,) = read_strengths(swept.output)
    assert str(chosen) in printed
    assert "a pilot of up to" not in printed
    assert printed.count("finished") == 6
    assert "to do" not in printed
    assert "about 0:00:00 left" in printed


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


def test_each_strength_is_said_with_how_it_was_chosen(swept: SweepSpec, tmp_path: Path) -> None:
    """Also where another start of the sweep, without a pilot, added cells at another strength."""
    folder = tmp_path / "sweep"
    shutil.copytree(swept.output, folder)
    settings = {**swept.settings, "generator": {"width": 4, "eps": "20/255"}}
    run_sweep(load_sweep(write(tmp_path, batches=[4], seeds=[0], settings=settings)))
    (chosen,) = read_strengths(folder)
    said = {str(chosen), "digits: eps 20/255, as the settings say"}
    for place in (folder, folder / "cells", tmp_path):
        assert set(collect([place]).strengths) == said
    (cell,) = (
        path.parent
        for path in folder.glob("cells/*-b4-s0-*/cell.yaml")
        if "eps: 0.078" in path.read_text()
    )
    assert collect([cell]).strengths == ("digits: eps 20/255, as the settings say",)


def test_only_the_pilot_of_a_sweep_is_left_out_whatever_folders_are_called(
    swept: SweepSpec, tmp_path: Path
) -> None:
    other = tmp_path / "pilot"
    shutil.copytree(swept.output, other)
    assert len(collect([tmp_path]).table) == 6
    assert set(collect([other / "pilot"]).table["effective_batch"]) == {4}
    shutil.rmtree(other / "cells")
    with pytest.raises(UserError, match=r"no run folders here; .*of a sweep whose pilot has ended"):
        collect([tmp_path])


def test_a_dry_run_says_that_a_pilot_comes_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, strength="midway")
    main(["sweep", "--config", str(file), "--dry-run"])
    printed, said = capsys.readouterr()
    assert "a pilot of up to 8 cells first chooses generator.eps" in " ".join(printed.split())
    assert "pilot" not in said
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
