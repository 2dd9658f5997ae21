"""Rank groups that train clusters of their own: the result of the whole bank, without messages."""

from pathlib import Path

import pytest
import torch

from analysis.table.collect import collect
from bigbatch_ue.evaluation.evaluate import evaluate
from bigbatch_ue.files.formats import read_json
from bigbatch_ue.files.tensor_files import read_tensors
from bigbatch_ue.runs.folder import load_run
from bigbatch_ue.runs.result import read_result
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.training.cluster_groups import RankGroup, join_rank_group
from bigbatch_ue.training.train import train
from tests.helpers.forked import run_ranks
from tests.helpers.ranks import set_launcher_variables
from tests.helpers.runs import STABLE, TINY, tiny

MORE = (
    "batch.micro=5",
    "augment.flip=true",
    "optimizer.name=sgd",
    "optimizer.lr=0.05",
    "budget.steps=2",
)
EVALUATION = (
    "target.args={channels: [8, 8, 16, 16], layers: [1, 1, 1, 1]}",
    "target.fit={epochs: 1, batch: 64}",
    "evaluation.seeds=[0]",
    "evaluation.fractions=[1.0]",
    "evaluation.arms=[clean, uc]",
)


@pytest.fixture(scope="module", params=[4], ids="ranks={}".format)
def launched(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[int, Path, Path]:
    """A run of one process, and one of 4 or 2 ranks in two groups."""
    ranks: int = request.param
    folder = tmp_path_factory.mktemp("parallel")
    alone = train(tiny(folder, *MORE, name="alone"))
    places = [f"data.root={folder / 'data'}", f"output={folder / 'groups'}"]
    training = ["-m", "bigbatch_ue.train", "--preset", "digits", *TINY, *MORE, *places]
    run_ranks("ddp", ranks, [*training, "compute.cluster_groups=2"])
    return ranks, alone.folder, folder / "groups"


def test_invariant_1_groups_train_the_perturbations_of_the_bank(
    launched: tuple[int, Path, Path],
) -> None:
    alone, groups = (
        read_tensors(folder / "perturbations.safetensors")[0]["perturbations"]
        for folder in launched[1:]
    )
    assert groups.shape == alone.shape
    for ours, theirs in zip(groups, alone, strict=True):
        assert (ours - theirs).norm() < 1e-4 * theirs.norm()


def test_the_result_covers_all_groups(launched: tuple[int, Path, Path]) -> None:
    ranks, *folders = launched
    alone, groups = (read_json(folder / "result.json") for folder in folders)
    assert groups["final_loss"] == pytest.approx(alone["final_loss"], rel=1e-3)
    for key in ("images_seen", "effective_batch_per_generator", "optimizer_steps"):
        assert groups[key] == alone[key]
    assert groups["world_size"] == ranks
    assert groups["cluster_groups"] == 2
    assert len(groups["noise_scale"]["delta"]["per_cluster"]) == 3
    losses = read_result(folders[1] / "result.json").plot().axes[0].lines
    assert len(losses) == 3 + 1
    assert [line.get_ydata()[-1] for line in losses[:3]] == pytest.approx(groups["final_loss"])
    parts = [read_json(path) for path in sorted(folders[1].glob("groups/*/result.json"))]
    assert [part["world_size"] for part in parts] == [ranks // 2] * 2
    assert sorted(len(part["final_loss"]) for part in parts) == [1, 2]
    config, run = load_run(folders[1])
    assert run.finished
    assert config.compute.cluster_groups == 2


def test_the_run_of_groups_is_collected(launched: tuple[int, Path, Path]) -> None:
    """The metrics of each group are in a file of its own."""
    *_, folder = launched
    assert not (folder / "metrics.jsonl").exists()
    assert len(list(folder.glob("groups/*/metrics.jsonl"))) == 2
    evaluate(folder, overrides=EVALUATION)
    collection = collect([folder])
    assert collection.problems == ()
    assert collection.table["effective_batch"].tolist() == [8]


def test_invariant_1_all_ranks_of_all_groups_choose_the_batch_of_one_process(
    tmp_path: Path,
) -> None:
    more = ("batch.effective=auto", "budget.steps=8", "batch.micro=50", *STABLE)
    alone = train(tiny(tmp_path, *more, name="alone"))
    places = [f"data.root={tmp_path / 'data'}", f"output={tmp_path / 'groups'}"]
    training = ["-m", "bigbatch_ue.train", "--preset", "digits", *TINY, *more, *places]
    run_ranks("ddp", 4, [*training, "compute.cluster_groups=2"])
    ours, theirs = (read_json(tmp_path / name / "result.json") for name in ("groups", "alone"))
    scales = [result["chosen_batch"].pop("noise_scale") for result in (ours, theirs)]
    assert scales[0] == pytest.approx(scales[1], rel=1e-3)
    assert ours["chosen_batch"] == theirs["chosen_batch"]
    for key in ("effective_batch", "images_seen", "optimizer_steps"):
        assert ours[key] == theirs[key]
    parts = [read_json(path) for path in tmp_path.glob("groups/groups/*/result.json")]
    assert {part["chosen_batch"]["batch"] for part in parts} == {theirs["chosen_batch"]["batch"]}
    assert (
        read_tensors(tmp_path / "groups" / "perturbations.safetensors")[0]["perturbations"]
        - read_tensors(alone.perturbations)[0]["perturbations"]
    ).abs().max() < 1e-3


def test_clusters_are_divided_evenly() -> None:
    parts = [group.generators(10) for group in RankGroup(0, 4).all_groups]
    assert [(part.start, part.stop) for part in parts] == [(0, 2), (2, 5), (5, 7), (7, 10)]


def test_ranks_that_cannot_be_divided_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    set_launcher_variables(monkeypatch, 4)
    with pytest.raises(UserError, match="cluster_groups=3: does not divide the launcher's 4"):
        join_rank_group(3)
    assert join_rank_group(1) == RankGroup()
    assert not torch.distributed.is_initialized()
