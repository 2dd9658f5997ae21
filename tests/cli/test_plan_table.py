"""The batch plan as a table."""

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
