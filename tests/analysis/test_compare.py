"""`python -m analysis compare` from its command line: evaluations in, a table and a page out."""

import csv
import json
import re
from pathlib import Path

import pytest
import torch

from analysis.cli import main
from analysis.findings.leaderboard import compare
from analysis.table.evaluations import read_evaluations
from analysis.views.leaderboard import accuracy_words, points_words, table_rows
from bigbatch_ue.cli.commands import main as bigbatch_ue
from bigbatch_ue.evaluation.evaluate import evaluate
from bigbatch_ue.protection.protect import protect
from tests.helpers.command_line import Cli, cli_of
from tests.helpers.evaluations import over_seeds, write_evaluation
from tests.helpers.runs import QUICK, make_run, undrawn

TOP = Path(__file__).resolve().parents[2]
EXAMPLE = TOP / "analysis" / "examples" / "evaluation"
SETTINGS = (*QUICK, "data.limit=120", "evaluation.seeds=[0, 1]")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run with its evaluation, and one of its images taken for another program's."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("evaluated")
    run = make_run(folder, *SETTINGS)
    protect(run, out=folder / "theirs", form="npz", at="training")
    (images,) = (folder / "theirs").glob("*.npz")
    places = [f"data.root={folder / 'cache'}", f"output={folder / 'foreign'}"]
    with undrawn():
        evaluate(run)
        bigbatch_ue(["evaluate", "--protected", f"npz:{images}", *SETTINGS, *places])
    return run, folder / "foreign"


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return cli_of(main, capsys)


def test_a_run_and_foreign_images_share_a_table(
    evaluated: tuple[Path, Path], cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    run, foreign = evaluated
    out = tmp_path / "board"
    code, said, _ = cli("compare", run, f"theirs={foreign}", "--out", out)
    assert code == 0
    assert said.splitlines()[-1] == f"leaderboard: {out / 'leaderboard.html'}"
    table, _ = said.split("drop: points")
    assert max(map(len, table.splitlines())) <= 80
    with (out / "leaderboard.csv").open(newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    noises = {"random noise, clusters=3 by features", "random noise, clusters=classes"}
    assert set(rows) == {"clean", "UC", "theirs", *noises}
    uc, theirs = rows["UC"], rows["theirs"]
    assert uc["value"] == theirs["value"]
    assert (uc["drop"], uc["linf"], uc["psnr"]) == (theirs["drop"], theirs["linf"], theirs["psnr"])
    assert (uc["arm"], uc["effective_batch"], uc["clusters"]) == ("uc", "4", "3 by features")
    assert (theirs["arm"], theirs["eps"], theirs["clusters"]) == ("protected", "16/255", "")
    assert rows["clean"]["networks"] == "2"
    records = json.loads((run / "evaluation" / "results.json").read_text())
    clean = [arm["final_accuracy"] for arm in records if arm["arm"] == "clean"]
    assert float(rows["clean"]["value"]) == pytest.approx(sum(clean) / 2, abs=1e-6)
    page = (out / "leaderboard.html").read_text()
    assert str(Path.home()) not in page.replace(str(run.parent), "")
    assert not re.search(r"(src|href)=.?http", page)
    assert {*re.findall(r'<th scope="row">(.*?)</th>', page)} == set(rows)


def test_the_example_in_the_docs_is_what_the_command_says(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(TOP)
    code, said, _ = cli("compare", "analysis/examples/evaluation", "--out", tmp_path)
    assert code == 0
    shown = (TOP / "docs" / "evaluation.md").read_text()
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    for line in said.splitlines()[:8] + said.splitlines()[11:20]:
        assert " ".join(line.split()) in lines, line


def test_the_columns_are_those_of_the_docs() -> None:
    rows = list(table_rows(compare(read_evaluations([str(EXAMPLE)]))))
    docs = (TOP / "docs" / "files.md").read_text().split("### leaderboard.csv")[1].split("\n## ")[0]
    first = re.findall(r"^\| (`.*?) \|", docs, re.MULTILINE)
    assert [name for cell in first for name in re.findall("`(.*?)`", cell)] == list(rows[0])
    assert len(
        {(row["dataset"], row["target"], row["countermeasure"], row["method"]) for row in rows}
    ) == len(rows)


def test_the_page_shows_every_task_and_what_is_unknown(cli: Cli, tmp_path: Path) -> None:
    assert cli("compare", EXAMPLE, "--out", tmp_path)[0] == 0
    page = (tmp_path / "leaderboard.html").read_text()
    board = compare(read_evaluations([str(EXAMPLE)]))
    for task in board.plain:
        assert f"<h2>{task.title}</h2>" in page
        for score in task.scores:
            assert (
                f"<td>{accuracy_words(score.result)}</td><td>{points_words(score.drop)}</td>"
                in page
            )
    for task in board.tasks:
        for score in task.rows:
            assert accuracy_words(score.result, 0) in page
    assert "images and settings are unknown" in page
    assert page.count("<h3>Under countermeasures</h3>") == 5


def test_markup_in_names_is_text(cli: Cli, tmp_path: Path) -> None:
    place = write_evaluation(tmp_path / "e", over_seeds([0.2], "uc"))
    assert cli("compare", f"<b>x</b>={place}", "--out", tmp_path / "out")[0] == 0
    assert "<b>x" not in (tmp_path / "out" / "leaderboard.html").read_text()


def damaged(folder: Path, name: str, change: dict[str, object]) -> Path:
    write_evaluation(folder, over_seeds([0.2], "uc"))
    content = json.loads((folder / name).read_text())
    for record in content if isinstance(content, list) else [content]:
        record |= change
    (folder / name).write_text(json.dumps(content))
    return folder


def test_a_missing_or_damaged_input_is_one_line_and_writes_nothing(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    good = write_evaluation(Path("good"), over_seeds([0.2], "uc"))
    (Path("run")).mkdir()
    Path("run/config.yaml").touch()
    Path("empty").mkdir()
    Path("results.json").write_text("[]")
    Path("torn.json").write_text("[{")
    damaged(Path("wrong"), "results.json", {"final_accuracy": 20.0})
    damaged(Path("about"), "about.json", {"visibility": None})
    damaged(Path("origin"), "about.json", {"origin": {"generator": {"eps": "much"}}})
    before = sorted(tmp_path.rglob("*"))
    cases = {
        "nowhere": "nowhere: no such file; check the path",
        "run": "run: no results.json of an evaluation here; run `bigbatch-ue evaluate run`",
        "empty": "empty: no results.json of an evaluation here; name another folder",
        "results.json": "results.json: no results yet; wait for the first arm",
        "torn.json": "torn.json: not valid JSON",
        "wrong": "wrong/results.json: protected: accuracies are not those of test images",
        "about": "about/about.json: not the metadata of an evaluation (visibility",
        "origin": "origin/about.json: not the origin of a run's perturbations (generator.eps",
        "clean=good": "clean=good: 'clean' cannot name a method; give it another name",
        "=good": "=good: '' cannot name a method",
        "other=good": "good: is named twice, '' and 'other'; name it once",
    }
    for place, message in cases.items():
        code, out, err = cli("compare", good, place)
        assert (code, out) == (2, "")
        assert err.startswith(f"error: {message}"), err
        assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
