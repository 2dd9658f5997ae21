"""What a release needs: one version, changelog and citation; hooks that are those of lint."""

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import yaml

import bigbatch_ue
from tests.helpers.ranks import ROOT


def test_the_version_is_in_one_place() -> None:
    assert importlib.metadata.version("bigbatch-ue") == bigbatch_ue.__version__
    project = (ROOT / "pyproject.toml").read_text().partition("[project.")[0]
    assert "\nversion" not in project
    assert "\nversion" not in (ROOT / "CITATION.cff").read_text()


def test_the_changelog_names_the_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert bigbatch_ue.__version__ in changelog
    assert "\n## " in changelog


def test_the_citation_has_what_its_format_requires() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert f'license = "{citation["license"]}"' in pyproject


def test_hooks_before_a_commit_run_what_make_lint_runs() -> None:
    makefile = (ROOT / "Makefile").read_text()
    _, _, recipe = makefile.partition("\nlint:")
    lines = re.findall(r"^\t\$\(BIN\)/(.+)$", recipe.partition("\n\n")[0], re.MULTILINE)
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    entries = [hook["entry"] for hook in local["hooks"]]
    assert [re.sub(r"^bash -c '(.*)'$", r"\1", entry) for entry in entries] == [
        f".venv/bin/{line}" for line in lines
    ]


def test_the_hooks_are_valid() -> None:
    program = Path(sys.executable).with_name("pre-commit")
    checked = subprocess.run([program, "validate-config"], cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
