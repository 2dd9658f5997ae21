"""The leaderboard: what is compared with what, and which methods are told apart."""

from pathlib import Path

import pytest
from scipy.stats import ttest_1samp

from analysis.findings.leaderboard import Leaderboard, Task, compare
from analysis.table.evaluations import read_evaluations
from bigbatch_ue.reporting.statistics import summarise
from bigbatch_ue.runtime.errors import UserError
from tests.helpers.evaluations import a_result, origin, over_seeds, write_evaluation

TOP = Path(__file__).resolve().parents[3]
CLEAN = over_seeds([0.9, 0.92, 0.94], "clean")
UC = over_seeds([0.2, 0.24, 0.22], "uc", run_seed=0, effective_batch=64)


def board(*places: str | Path) -> Leaderboard:
    return compare(read_evaluations([str(place) for place in places]))


def standings(task: Task) -> dict[str, str]:
    return {score.method: score.standing for score in task.rows}


def test_methods_are_ordered_by_what_they_take_and_judged_against_the_best(tmp_path: Path) -> None:
    noise = over_seeds([0.8, 0.84, 0.86], "random_noise")
    pattern = over_seeds([0.1, 0.5, 0.3], "pattern")
    once = over_seeds([0.5], "class_noise")
    place = write_evaluation(tmp_path / "e", [*CLEAN, *noise, *pattern, *once, *UC])
    (task,) = board(place).tasks
    assert standings(task) == {
        "clean": "reference",
        "UC": "best",
        "block pattern": "tied",
        "class noise": "unknown",
        "random noise": "behind",
    }
    best, other, single, last = task.scores
    assert best.result.mean == pytest.approx(0.22)
    drops = [0.7, 0.68, 0.72]
    expected = summarise(drops)
    assert best.drop is not None
    ends = (expected.mean, expected.low, expected.high)
    assert (best.drop.mean, best.drop.low, best.drop.high) == pytest.approx(ends)
    gaps = ([-0.1, 0.26, 0.08], [0.6, 0.6, 0.64])
    raw = [ttest_1samp(gap, 0).pvalue for gap in gaps]
    assert (other.p, last.p) == pytest.approx((raw[0], 2 * raw[1]))
    assert single.result.basis == "test images"
    assert single.p is None
    assert (best.eps, best.batch, best.clusters, best.psnr, best.linf) == (
        *("16/255", "64", "classes"),
        *(25.0, 16),
    )
    assert (last.eps, last.psnr) == ("16/255", None)


def test_few_test_images_are_no_difference(tmp_path: Path) -> None:
    few = (10, 10, 10, 10)
    clean = over_seeds([1.0, 1.0, 1.0], "clean", images=few)
    uc = over_seeds([0.2, 0.2, 0.2], "uc", images=few)
    for gap, standing in ((0.1, "tied"), (0.2, "behind")):
        noise = over_seeds([0.2 + gap] * 3, "random_noise", images=few)
        place = write_evaluation(tmp_path / f"{gap}", [*clean, *noise, *uc])
        assert standings(board(place).tasks[0])["random noise"] == standing


def test_balanced_accuracy_decides_where_classes_are_uneven(tmp_path: Path) -> None:
    uneven = (160, 20, 10, 10)
    noise = [
        a_result(
            0.3, images=uneven, arm="random_noise", seed=seed, final_accuracy=0.1, inputs=f"{seed}"
        )
        for seed in range(2)
    ]
    uc = over_seeds([0.2, 0.2], "uc", images=uneven)
    place = write_evaluation(
        tmp_path / "e", [*over_seeds([0.9, 0.9], "clean", images=uneven), *noise, *uc]
    )
    (task,) = board(place).tasks
    assert task.measure == "balanced accuracy"
    assert task.scores[0].method == "UC"


def test_runs_of_several_seeds_are_repetitions_and_share_their_controls(tmp_path: Path) -> None:
    places = []
    for run in range(3):
        uc = over_seeds([0.2 + 0.1 * run, 0.22 + 0.1 * run], "uc", run_seed=run, effective_batch=64)
        arms = [*CLEAN[:2], *uc]
        places.append(write_evaluation(tmp_path / f"s{run}", arms))
    (task,) = board(*places).tasks
    assert task.clean is not None
    assert len(task.clean.entries) == 2
    (score,) = task.scores
    assert (score.runs, score.seeds, len(score.entries)) == (3, 2, 6)
    assert (score.result.basis, score.result.count) == ("runs", 3)
    assert score.result.low == pytest.approx(summarise([0.21, 0.31, 0.41]).low)


def test_what_differs_is_never_pooled(tmp_path: Path) -> None:
    eps = origin(8 / 255)
    strong = write_evaluation(tmp_path / "strong", [*CLEAN, *UC])
    noise = over_seeds([0.8, 0.8, 0.8], "random_noise")
    weak = write_evaluation(tmp_path / "weak", [*CLEAN, *UC, *noise], origin=eps)
    large = [
        arm
        for seed in range(2)
        for arm in over_seeds([0.3], "uc", effective_batch=128, run_seed=seed)
    ]
    batch = write_evaluation(tmp_path / "batch", large)
    (task,) = board(strong, weak, batch).tasks
    apart = {"UC, eps=16/255, B=64", "UC, eps=8/255, B=64", "UC, eps=16/255, B=128"}
    assert set(standings(task)) == {"clean", "random noise", *apart}
    other_images = write_evaluation(tmp_path / "images", [*CLEAN, *UC], images="ba9876543210")
    share = {"data": {"name": "digits", "size": 8, "limit": 100}}
    part = write_evaluation(tmp_path / "part", [*CLEAN, *UC], images="fedcba987654", settings=share)
    tasks = board(strong, part).tasks
    assert {task.dataset for task in tasks} == {"digits", "digits, data.limit=100"}
    tasks = board(strong, other_images).tasks
    assert [task.dataset for task in tasks] == ["digits, 0123456789ab", "digits, ba9876543210"]
    recipe = {"recipe": {"target": {"fit": {"epochs": 60}}, "version": 2}}
    former = {"recipe": {"target": {"fit": {"epochs": 30}}, "version": 2}}
    arms = [*over_seeds([0.9], "clean", **recipe), *over_seeds([0.9], "clean", **former)]
    found = board(write_evaluation(tmp_path / "recipes", arms)).tasks
    assert [task.target for task in found] == [
        "resnet18, target.fit.epochs=60",
        "resnet18, target.fit.epochs=30",
    ]
    parts = over_seeds([0.5, 0.5], "uc", fraction=0.8, run_seed=0, effective_batch=64)
    (task,) = board(write_evaluation(tmp_path / "parts", [*CLEAN, *UC, *parts])).tasks
    assert list(standings(task)) == ["clean", "UC", "UC, 80 %"]


def test_results_without_their_images_are_compared_with_nothing_else(tmp_path: Path) -> None:
    known = write_evaluation(tmp_path / "known", [*CLEAN, *UC])
    alone = write_evaluation(tmp_path / "alone", [*CLEAN, *UC])
    (alone / "about.json").unlink()
    again = write_evaluation(tmp_path / "again", [*CLEAN, *UC])
    (again / "about.json").unlink()
    found = board(known, alone / "results.json", again)
    assert len({task.dataset for task in found.tasks}) == 3
    assert [note.split(":")[0] for note in found.notes] == [f"{alone / 'results.json'}", f"{again}"]
    assert "nothing else is compared with them" in found.notes[0]


def test_batches_of_a_joint_result_stay_apart(tmp_path: Path) -> None:
    place = write_evaluation(
        tmp_path / "e", [*CLEAN, *UC, *over_seeds([0.3], "uc", effective_batch=8)]
    )
    (place / "about.json").unlink()
    assert set(standings(board(place).tasks[0])) == {"clean", "UC, B=64", "UC, B=8"}


def test_images_of_other_programs_have_names(tmp_path: Path) -> None:
    def foreign(name: str, accuracy: float, place: str) -> Path:
        arms = over_seeds([accuracy, accuracy + 0.02], "protected")
        arms += over_seeds([0.8, 0.8], "shuffled")
        return write_evaluation(tmp_path / name, arms, origin={"protected": place})

    ours = write_evaluation(tmp_path / "ours", [*CLEAN, *UC])
    one = foreign("one", 0.4, "folder:sets/emn-s0")
    two = foreign("two", 0.5, "npz:sets/emn-s1.npz")
    (task,) = board(ours, one, two).tasks
    names = {"UC", "emn-s0", "emn-s1", "emn-s0, shuffled clusters", "emn-s1, shuffled clusters"}
    assert set(standings(task)) - {"clean"} == names
    (task,) = board(f"ours={ours}", f"EMN={one}", f"EMN={two}").tasks
    assert set(standings(task)) == {"clean", "ours", "EMN", "EMN, shuffled clusters"}
    repeated = task.score("EMN")
    assert repeated is not None
    assert (repeated.runs, repeated.result.basis, repeated.result.count) == (2, "runs", 2)
    assert repeated.result.mean == pytest.approx(0.46)
    assert (repeated.eps, repeated.clusters) == ("16/255", "")
    reserved = foreign("three", 0.4, "folder:sets/clean")
    assert "images of clean" in standings(board(ours, reserved).tasks[0])
    with pytest.raises(UserError, match="EMN: names perturbations of a run as well as images"):
        board(f"EMN={ours}", f"EMN={one}")


def test_countermeasures_are_tasks_of_their_own_with_their_own_clean_images(tmp_path: Path) -> None:
    jpeg = {"countermeasure": "jpeg10"}
    arms = [
        *CLEAN,
        *UC,
        *over_seeds([0.6, 0.6], "clean", **jpeg),
        *over_seeds([0.5, 0.5], "uc", **jpeg),
    ]
    found = board(write_evaluation(tmp_path / "e", arms))
    (plain,) = found.plain
    (countered,) = found.countered(plain)
    assert countered.title == "digits · resnet18 · JPEG, quality 10"
    drop = countered.scores[0].drop
    assert drop is not None
    assert drop.mean == pytest.approx(0.1)


def test_the_mean_is_over_tasks_that_all_its_methods_have(tmp_path: Path) -> None:
    def task(name: str, **accuracies: float) -> Path:
        arms = [arm for kind, value in accuracies.items() for arm in over_seeds([value] * 2, kind)]
        named = [arm.__class__(**{**vars(arm), "dataset": name}) for arm in arms]
        return write_evaluation(tmp_path / name, named, images=name)

    places = (
        task("a", clean=0.9, uc=0.3, pattern=0.5),
        task("b", clean=0.8, uc=0.4, pattern=0.4, random_noise=0.2),
        task("c", clean=0.9, uc=0.5),
    )
    found = board(*places)
    assert [one.dataset for one in found.shared] == ["a", "b"]
    assert found.methods == ["UC", "block pattern", "random noise"]
    assert [found.mean_drop(method) for method in found.methods] == [
        pytest.approx(0.5),
        pytest.approx(0.4),
        None,
    ]


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    rest = [
        *over_seeds([0.5], "uc", labels="random:2"),
        *over_seeds([0.5], "unprotected", fraction=0.8),
    ]
    place = write_evaluation(tmp_path / "e", [*CLEAN, *UC, *rest], wanted=20)
    found = board(place)
    assert len(found.tasks) == 1
    assert found.notes == [
        f"{place}: 8 of 20 arms so far",
        f"{place}: 2 networks left out, because other labels and unprotected parts are no methods "
        "(protected random:2, unprotected part 20%)",
    ]
    with pytest.raises(UserError, match="nothing to compare"):
        board(write_evaluation(tmp_path / "rest", rest))


def test_the_committed_evaluation_is_read_as_documented() -> None:
    found = board(TOP / "analysis" / "examples" / "evaluation")
    flowers = found.plain[0]
    words = {s.method: (round(100 * s.result.mean, 1), s.standing) for s in flowers.rows}
    assert words["clean"] == (65.2, "reference")
    assert words["UC"] == (27.0, "best")
    assert words["block pattern"] == (35.3, "tied")
    assert words["random noise"] == (64.0, "behind")
    assert found.methods[:3] == ["UC", "block pattern", "random noise"]
    measures = {task.dataset: task.measure for task in found.plain}
    assert measures["pneumoniamnist"] == measures["breastmnist"] == "balanced accuracy"
