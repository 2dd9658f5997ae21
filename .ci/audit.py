"""Look for known vulnerabilities in what constraints.txt pins; `make audit`.

Ends with 1 if there are any, and with 0, saying so, where the data on them is out of reach.
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
"""Has known vulnerabilities: an index that tells of none has no data, which pip-audit passes."""


def report(pins: Path, cache: Path) -> dict[str, Any]:
    """What pip-audit says of the requirements `pins`.

    Raises:
        RuntimeError: it has failed, such as for want of a network.
    """
    how = ["--no-deps", "--disable-pip", "--progress-spinner=off", "--format=json"]
    places = ["--requirement", str(pins), "--cache-dir", str(cache)]
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", *how, *places], capture_output=True, text=True
    )
    if not done.stdout:
        raise RuntimeError(f"pip-audit: {done.stderr.strip()}")
    content: dict[str, Any] = json.loads(done.stdout)
    return content


def vulnerabilities(report: dict[str, Any]) -> Iterator[str]:
    """A line for each vulnerability in what pip-audit says."""
    for package in report.get("dependencies", ()):
        for found in package.get("vulns", ()):
            mended = ", ".join(found["fix_versions"]) or "no version yet"
            yield f"{package['name']} {package['version']}: {found['id']}, mended in {mended}"


def reachable(folder: Path) -> bool:
    """Whether the data is there: it tells of what is known to be vulnerable."""
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
