"""Look for known vulnerabilities in the pins of constraints.txt; `make audit`.

The exit code is 1 if there are any. It is 0, with a message, if the data on them is out of reach.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

PINS = Path(__file__).resolve().parents[1] / "constraints.txt"
CANARY = "jinja2==2.4.1"
"""A package with known vulnerabilities. Without data on any, pip-audit silently reports none."""


def report(pins: Path, cache: Path) -> dict[str, Any]:
    """Run pip-audit on the requirements `pins`, and return its report.

    Raises:
        RuntimeError: it failed, for example without a network.
    """
    options = ["--no-deps", "--disable-pip", "--progress-spinner=off", "--format=json"]
    places = ["--requirement", str(pins), "--cache-dir", str(cache)]
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", *options, *places], capture_output=True, text=True
    )
    if not done.stdout:
        raise RuntimeError(f"pip-audit: {done.stderr.strip()}")
    content: dict[str, Any] = json.loads(done.stdout)
    return content


def vulnerabilities(report: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each vulnerability in a report of pip-audit."""
    for package in report.get("dependencies", ()):
        for found in package.get("vulns", ()):
            fixed = ", ".join(found["fix_versions"]) or "no version yet"
            yield f"{package['name']} {package['version']}: {found['id']}, fixed in {fixed}"


def reachable(folder: Path) -> bool:
    """Return whether the data is there, in which case it reports the canary."""
    canary = folder / "canary.txt"
    canary.write_text(CANARY)
    try:
        return any(vulnerabilities(report(canary, folder / "cache")))
    except RuntimeError:
        return False


def main() -> int:
    """Audit, print, and return the exit code."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if not reachable(folder):
            print("audit: skipped, since the data on known vulnerabilities is out of reach")
            return 0
        packages = report(PINS, folder / "cache")
    found = list(vulnerabilities(packages))
    for line in found:
        print(f"audit: {line}")
    print(f"audit: {len(packages['dependencies'])} packages, {len(found)} vulnerabilities known")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
