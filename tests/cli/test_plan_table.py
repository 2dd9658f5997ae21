"""The batch plan as a table."""

import re
from pathlib import Path

import pytest

from bigbatch_ue.cli.commands import main
from bigbatch_ue.runs.result import read_result
from tests.helpers.command_line import Cli, cli_of
from tests.helpers.runs import TINY


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return cli_of(main, capsys)


def test_plan_prints_the_decomposition_without_training(cli: Cli, tmp_path: Path) -> None:
    options = ("--images", "3680", "--ranks", "3", "--engine", "zero2")
    code, out, _ = cli(
        "plan", "--preset", "pets", *options, "batch.effective=100", "batch.micro=64"
    )
    assert code == 0
    for part in ("1,000 through", "333 + 333 + 334", "6 of up to 56", "200", "0.0001", "MiB"):
        assert part in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("data.limit=200",), "clusters tell all of the label (clusters.by=labels)"),
        (("data.limit=200", "clusters.count=3"), "add --agreement to group the images"),
        (("data.limit=200", "clusters.count=3", "--agreement"), "of the label (NMI 0."),
        (("--images", "200"), "assuming 10 clusters; unknown without the images"),
    ],
)
def test_plan_says_what_the_clusters_tell_of_the_labels(
    cli: Cli, tmp_path: Path, settings: tuple[str, ...], said: str
) -> None:
    small = (*TINY[4:6], "data.size=8", f"data.root={tmp_path}", "batch.effective=8")
    code, out, _ = cli("plan", "--preset", "digits", *small, *settings)
    assert code == 0
    assert said in " ".join(out.replace("│", " ").split())


def test_plan_warns_of_full_batches(cli: Cli) -> None:
    code, out, _ = cli("plan", "--preset", "pets", "--images", "3680", "batch.effective=1024")
    assert code == 0
    assert "capped" in out


def test_plan_says_the_batch_of_classes_of_different_sizes_as_train_does(
    cli: Cli, tmp_path: Path
) -> None:
    settings = ("data.limit=null", f"data.root={tmp_path}", f"output={tmp_path / 'run'}")
    given = ("--preset", "digits", *TINY, *settings, "clusters.by=labels", "clusters.count=auto")
    code, out, _ = cli("plan", *given, "batch.effective=500")
    assert code == 0
    said = " ".join(out.replace("│", " ").split())
    code, _, error = cli("train", *given, "batch.effective=500")
    assert code == 0
    batches = read_result(tmp_path / "run" / "result.json").effective_batch_per_generator
    words = f"{min(batches)} to {max(batches)}"
    assert max(batches) - min(batches) > 1  # more than an even division leaves
    assert f"effective batch {words} (requested 500)" in said
    assert f"images per cluster {words}" in said
    assert f"effective batch {words} x 10 generators" in error
    capped = f"B = 500 reaches a generator's {words} images: capped to {words} (extend: cap)"
    assert capped in error
    assert capped in said


def test_plan_says_where_sizes_of_clusters_are_estimates(cli: Cli, tmp_path: Path) -> None:
    given = ("--preset", "digits", *TINY, "data.limit=100", f"data.root={tmp_path}")
    for option, words in (
        ((), "about 33 to 34 (k-means decides; add --agreement to group now)"),
        (("--images", "100"), "about 33 to 34 (if all are alike)"),
        (("--agreement",), "images per cluster"),
    ):
        code, out, _ = cli("plan", *given, *option, "batch.effective=50")
        assert code == 0
        assert words in out
        assert ("effective batch           │ about" in out) == (option != ("--agreement",))


def test_plan_estimates_a_step_on_many_nodes(cli: Cli) -> None:
    given = ("plan", "--preset", "pets", "--images", "65536", "--nodes", "4600", "--gpus", "6")
    code, out, _ = cli(*given, "batch.effective=6554")
    assert code == 0
    said = " ".join(out.replace("│", " ").split())
    for words in (
        "micro-batches 1 of up to 3",
        "MiB per rank under ddp",
        "machine summit: 4,600 nodes x 6 V100 = 27,600 ranks",
        "expected step 0.592 s,",
        "generators 92.4 %",
        "gradient 6.1 %; a rank sends 627 MB",
        "efficiency 0.423 % of 27,600 single GPUs",
        "generators over 50 % from 23 nodes on",
        "communication over 10 % not on 4,608 nodes",
        "scaled from ResNet-50, 224 px, on one H100; links as rated",
    ):
        assert words in said
    assert "idle" not in said
    assert "rank groups" not in said
    parts = [float(part) for part in re.findall(r"│ +([\d.]+) %", out)[:4]]
    assert sum(parts) == pytest.approx(100, abs=0.2)


def test_plan_says_what_is_measured_idle_grouped_and_left_out(cli: Cli) -> None:
    given = ("plan", "--preset", "pets", "--images", "3680", "--machine", "h100", "--nodes")
    code, out, _ = cli(*given, "100", "batch.effective=64")
    assert code == 0
    assert "160: a step has 640 images" in out
    assert "measured on one H100; links as rated " in out
    code, out, _ = cli(*given, "5", "compute.cluster_groups=10", "compute.compile=off")
    assert code == 0
    assert "10 of 4 ranks, up to 1 generator each" in out
    assert "; without compute.compile " in out
    code, out, _ = cli(*given, "1", "--gpus", "1", "--engine", "single", "data.size=112")
    assert code == 0
    assert "1 node x 1 H100 = 1 rank" in out
    assert "100 % of 1 single GPU" in out
    assert "scaled from ResNet-50" in out


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (
            ("--nodes", "4"),
            "--nodes: the machine is not named; name one with --machine: frontier, h100",
        ),
        (("--nodes", "4", "--gpus", "8"), "--nodes: 8 GPUs a node are not those of one machine; "),
        (("--nodes", "4609", "--gpus", "6"), "--nodes 4609: summit has 4,608 nodes; "),
        (("--nodes", "1", "--gpus", "9", "--machine", "h100"), "--gpus 9: h100 has 8 GPUs a node"),
        (("--gpus", "6"), "--gpus: needs --nodes; "),
        (("--machine", "h100"), "--machine: needs --nodes; "),
        (("--nodes", "2", "--gpus", "6", "--ranks", "12"), "--ranks: follows from --nodes"),
        (("--nodes", "2", "--gpus", "6", "--engine", "single"), "--engine single: is one rank"),
        (("--nodes", "2", "--gpus", "6", "compute.cluster_groups=5"), "does not divide the 12 ran"),
        (("--nodes", "2", "--gpus", "6", "compute.cluster_groups=12"), "more than the 10 generat"),
        (("--nodes", "2", "--gpus", "6", "compute.precision=bf16"), "has no hardware for bf16; "),
        (("--nodes", "2", "--gpus", "6", "batch.accumulation=engine"), "estimates the delta path"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_plan_refuses_nodes_that_it_cannot_plan_for(
    cli: Cli, given: tuple[str, ...], error: str
) -> None:
    code, out, said = cli("plan", "--preset", "pets", "--images", "3680", *given)
    assert (code, out) == (2, "")
    assert said.startswith("error: ")
    assert error in said
    assert said.count("\n") == 1
