"""Pins: every installed dependency has one, and the audit of the pins reports what it finds."""

import os
import runpy
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TOP = Path(__file__).resolve().parents[2]


def dependencies(
    name: str, extras: frozenset[str], seen: dict[tuple[str, frozenset[str]], str]
) -> None:
    """Add the installed versions of `name`, with `extras`, and of its dependencies to `seen`."""
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:  # not needed here, or not installed yet
        return
    key = (canonicalize_name(name), extras)
    if key in seen:
        return
    seen[key] = distribution.version
    for line in distribution.requires or ():
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in (*extras, "")):
            dependencies(requirement.name, frozenset(requirement.extras), seen)


def test_every_installed_dependency_is_pinned_at_its_version() -> None:
    lines = (TOP / "constraints.txt").read_text().split()
    pins = dict(line.split("==") for line in lines)
    pinned = {canonicalize_name(name): version for name, version in pins.items()}
    assert len(pinned) == len(lines)
    seen: dict[tuple[str, frozenset[str]], str] = {}
    dependencies("bigbatch-ue", frozenset({"dev"}), seen)
    own = ("bigbatch-ue", "pip")  # pip comes with the environment
    installed = {name: version for (name, _), version in seen.items() if name not in own}
    assert len(installed) > 100
    assert {"torch", "deepspeed", "pytest", "ruff"} <= set(installed)
    assert {name: pinned.get(name) for name in installed} == installed


def test_the_audit_says_that_it_was_skipped_without_its_data() -> None:
    pytest.importorskip("pip_audit")
    nowhere = "http://127.0.0.1:9"
    done = subprocess.run(
        [sys.executable, TOP / ".ci" / "audit.py"],
        env={**os.environ, "HTTPS_PROXY": nowhere, "https_proxy": nowhere, "NO_PROXY": ""},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.count("\n")) == (0, 1), done.stderr
    assert done.stdout.startswith("audit: skipped")


def test_the_audit_reports_each_vulnerability() -> None:
    audit = runpy.run_path(str(TOP / ".ci" / "audit.py"))
    vulnerable = {
        "name": "jinja2",
        "version": "2.4.1",
        "vulns": [
            {"id": "PYSEC-2014-8", "fix_versions": ["2.7.2"], "aliases": [], "description": ""},
            {"id": "PYSEC-2014-82", "fix_versions": [], "aliases": [], "description": ""},
        ],
    }
    fine = {"name": "six", "version": "1.17.0", "vulns": []}
    unknown = {"name": "mine", "skip_reason": "Dependency not found on PyPI"}
    lines = list(audit["vulnerabilities"]({"dependencies": [vulnerable, fine, unknown]}))
    assert lines == [
        "jinja2 2.4.1: PYSEC-2014-8, fixed in 2.7.2",
        "jinja2 2.4.1: PYSEC-2014-82, fixed in no version yet",
    ]
