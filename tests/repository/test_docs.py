"""The documentation: its links, files, settings and commands exist, and the README stays short."""

import importlib.metadata as metadata
import importlib.util
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from functools import cache
from itertools import dropwhile, pairwise, takewhile
from pathlib import Path
from typing import Any

import pytest
import typer
from markdown_it import MarkdownIt
from markdown_it.token import Token
from packaging.requirements import Requirement
from typer.exceptions import TyperException

from analysis.cli import app as analysis_app
from bigbatch_ue.cli.commands import app
from bigbatch_ue.config.load import load_config, resolve, revise_evaluation
from bigbatch_ue.config.schema import Config
from bigbatch_ue.files.yaml_files import parse_yaml
from bigbatch_ue.launching.ranks import describe
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.sweeps.spec import SweepSpec, load_sweep

TOP = Path(__file__).resolve().parents[2]
FOLDERS = ("", "docs/", "launchers/", "ds_configs/", "analysis/", "analysis/examples/*/", "tests/")
PAGES = sorted(page for folder in FOLDERS for page in TOP.glob(f"{folder}*.md"))
LONGEST_README = 9_000
PROGRAMS = ("accelerate", "bigbatch-ue", "bsub", "make", "pip", "python", "sbatch", "source")
SCRIPTS = {
    "launchers/multinode.sh": (),
    "launchers/slurm/train.sbatch": (),
    "launchers/slurm/sweep.sbatch": ("sweep",),
    "launchers/lsf/train.lsf": (),
}
"""Scripts that take the words of a command, and the words that they put before them."""
NAMED_FILE = re.compile(
    r"(?<![\w./-])(?:launchers|ds_configs|analysis/examples|bigbatch_ue|docs|tests)/[\w./-]*\w"
)
SETTING = re.compile(r"(?!\w+\.safetensors)([a-z_]+(?:\.[a-z_]+)+)(=.*)?")

every_page = pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: page.relative_to(TOP).as_posix()
)

# -- reading Markdown ----------------------------------------------------------------------------


@cache
def tokens(page: Path) -> list[Token]:
    """All tokens of a page, those within lines too."""
    parsed = MarkdownIt("commonmark").enable("table").parse(page.read_text())
    return [each for token in parsed for each in (token, *(token.children or ()))]


def blocks(page: Path, language: str) -> Iterator[str]:
    return (t.content for t in tokens(page) if t.type == "fence" and t.info == language)


def inline_code(page: Path) -> Iterator[str]:
    return (token.content for token in tokens(page) if token.type == "code_inline")


def links(page: Path) -> Iterator[str]:
    for token in tokens(page):
        target = token.attrs.get("href") or token.attrs.get("src")
        if target and not re.match("[a-z]+:", str(target)):
            yield str(target)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    found: set[str] = set()
    everything = tokens(page)
    for heading, line in pairwise(everything):
        if heading.type == "heading_open":
            text = "".join(t.content for t in line.children or ())
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            same = sum(re.fullmatch(rf"{slug}(-\d+)?", anchor) is not None for anchor in found)
            found.add(f"{slug}-{same}" if same else slug)
    return found


def commands(page: Path) -> Iterator[str]:
    """Each command of the shell blocks, and those between backticks with options or settings."""
    for block in blocks(page, "sh"):
        yield from block.replace("\\\n", " ").splitlines()
    for code in inline_code(page):
        first, *rest = re.sub("([A-Z_]+=[^ ]+ )*", "", code, count=1).split(" ")
        if first in (*PROGRAMS, *SCRIPTS) and re.search("--|=", " ".join(rest)):
            yield code


# -- checking a command --------------------------------------------------------------------------


def check_command(words: list[str]) -> None:
    """Assert that a command exists, takes its options, and knows its settings."""
    match words:
        case []:
            pass
        case [assignment, *rest] if re.match("[A-Z_]+=", assignment):
            variable, _, value = assignment.partition("=")
            if variable == "ENGINE":
                assert (TOP / "launchers" / "accelerate" / f"{value}.yaml").exists()
            check_command(rest)
        case ["make", *targets]:
            known = re.findall(r"^(\w+):", (TOP / "Makefile").read_text(), re.MULTILINE)
            assert {target for target in targets if "=" not in target} <= set(known)
        case ["pip", "install", *_, requirement]:
            extra = Requirement(requirement).extras
            assert extra <= set(metadata.metadata("bigbatch-ue").get_all("Provides-Extra"))
        case ["twine" | "check-wheel-contents" | "pre-commit" as tool, *_]:
            assert shutil.which(tool, path=str(Path(sys.executable).parent))
        case ["source", file]:
            assert file == ".venv/bin/activate"
        case ["bigbatch-ue", *rest]:
            check_options(app, rest)
        case ["python", "-m", "analysis", *rest]:
            check_options(analysis_app, rest)
        case ["python", "-m", "bigbatch_ue", *rest]:
            check_options(app, rest)
        case ["python", "-m", "bigbatch_ue.train", *rest]:
            check_options(app, ["train", *rest])
        case ["accelerate", "launch", *rest] | ["python", "-m", "bigbatch_ue.launch", *rest]:
            started = describe(rest[rest[:1] == ["--dry-run"] :]).splitlines()[-1]
            check_command(["python", *shlex.split(started)[1:]])
        case ["python", "-m", module, *_]:
            assert importlib.util.find_spec(module)
        case ["python", script]:
            assert script == "script.py"
        case ["sbatch" | "bsub", *rest]:
            check_command(list(dropwhile(lambda word: word.startswith("-"), rest)))
        case [script, *rest] if script in SCRIPTS:
            check_options(app, [*SCRIPTS[script], *rest[rest[:1] == ["--dry-run"] :]])
        case [script, *_]:
            assert (TOP / script).is_file(), f"{script} is neither a known command nor a file"


def check_options(program: typer.Typer, words: list[str]) -> None:
    known = typer.main.get_group(program).commands
    if words[0] in ("--help", "--install-completion", "--show-completion"):
        assert len(words) == 1
        return
    name, *rest = words
    assert name in known
    given = known[name].make_context(name, rest).params
    if program is app and name in ("launch", "submit"):
        check_options(app, given["command"])
    elif program is app:
        check_settings(name, given)


def check_settings(name: str, given: dict[str, Any]) -> None:
    """Assert that presets, targets and `key=value` words are valid."""
    listed = [*(given.get("overrides") or ()), *(given.get("arguments") or ())]
    overrides = [word for word in listed if "=" in word]
    preset, file = given.get("preset"), given.get("config")
    file = file if file and (TOP / file).exists() else None  # others are the user's own
    if name == "sweep" and file:
        load_sweep(file, overrides)
    elif name == "sweep":
        resolve(SweepSpec, {"datasets": ["digits"], "batches": [4]}, overrides)
    elif name == "evaluate":
        external = given["protected"] is not None
        config = load_config(preset, file, overrides if external else ())
        revise_evaluation(config, given["target"], () if external else overrides)
    else:
        load_config(preset, file, overrides)


# -- tests ---------------------------------------------------------------------------------------


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        file, _, anchor = target.partition("#")
        place = (page.parent / file).resolve() if file else page
        assert place.exists(), target
        assert not anchor or anchor in anchors(place), target


@every_page
def test_commands_exist_and_parse(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TOP)
    for command in commands(page):
        words = shlex.split(command, comments=True)
        try:
            check_command(list(takewhile(lambda word: word != ">", words)))
        except Exception as error:
            raise AssertionError(f"{command}\n{error!r}") from error


@pytest.mark.parametrize(
    "command",
    [
        "bigbatch-ue trian",
        "bigbatch-ue train --preset digit",
        "bigbatch-ue train --presets digits",
        "python -m bigbatch_ue.train batch.effectve=3",
        "bigbatch-ue evaluate runs/mine --target resnet19",
        "bigbatch-ue evaluate runs/mine batch.effective=3",
        "bigbatch-ue sweep --config sweep.yaml seed=3",
        "python -m analysis report x --draws few",
        "python -m bigbatch_ue.launch --config_file nowhere.yaml -m bigbatch_ue datasets",
        "accelerate launch --config_file launchers/accelerate/ddp.yaml -m bigbatch_ue trian",
        "bigbatch-ue launch zero9 --ranks 2 -- train",
        "bigbatch-ue launch zero2 --ranks 2 -- train --preset digit",
        "bigbatch-ue submit slurm --node 2 --time 4:00 -- train",
        "ENGINE=zero9 sbatch launchers/slurm/train.sbatch train",
        "sbatch --array=1-3 launchers/slurm/sweep.sbatch --configs sweep.yaml",
        "launchers/nowhere.sh train",
        "python -m tests.nowhere",
        "make tests",
    ],
)
def test_a_wrong_command_is_found(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TOP)
    with pytest.raises((AssertionError, UserError, TyperException)):
        check_command(shlex.split(command))


@every_page
def test_named_files_and_settings_exist(page: Path) -> None:
    code = [*inline_code(page), *(t.content for t in tokens(page) if t.type == "fence")]
    for named in {file for text in code for file in NAMED_FILE.findall(text)}:
        assert (TOP / named).exists(), named
    reference = (TOP / "docs" / "settings.md").read_text()
    for setting in filter(None, map(SETTING.fullmatch, inline_code(page))):
        if setting[1].partition(".")[0] in Config.model_fields:
            section = f"\n## {setting[1]}\n" in reference or f"\n### {setting[1]}\n" in reference
            assert section or f"| `{setting[1]}` |" in reference, setting[0]


def test_the_example_of_a_sweep_file_is_valid() -> None:
    (example,) = blocks(TOP / "docs" / "sweeps.md", "yaml")
    resolve(SweepSpec, parse_yaml(example), ())


def test_the_readme_is_short() -> None:
    assert len((TOP / "README.md").read_bytes()) <= LONGEST_README
