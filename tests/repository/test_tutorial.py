"""The tutorial: its cells run, its outputs are those of its cells, and nothing private is in it.

After a change of its cells, its outputs are made again, in a few minutes, with

    python -m tests.repository.test_tutorial
"""

import base64
import copy
import getpass
import re
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.repository.test_docs import TOP, anchors

NOTEBOOK = TOP / "docs" / "tutorial.ipynb"
LARGEST = 500_000
FIGURES = 4
LONGEST = 1800
"""Seconds for one cell, also on a machine that does other things."""


@pytest.fixture(scope="module")
def committed() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def executed(committed: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The notebook after its cells have run in an empty folder, and this folder."""
    folder = tmp_path_factory.mktemp("tutorial")
    return execute(committed, folder), folder


def execute(notebook: Any, folder: Path) -> Any:
    """A copy of the notebook with the outputs of its cells, run in `folder`."""
    fresh = copy.deepcopy(notebook)
    place = {"metadata": {"path": str(folder)}}
    options: dict[str, Any] = {"record_timing": False, "coalesce_streams": True}
    NotebookClient(
        fresh, timeout=LONGEST, kernel_name="python3", resources=place, **options
    ).execute()
    fresh.metadata["language_info"] = {"name": "python"}
    return fresh


def record() -> None:
    """Write the notebook anew, with the outputs of its cells."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        nbformat.write(execute(notebook, Path(folder)), NOTEBOOK)


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text_of(cell: Any) -> str:
    """What a reader sees below a cell, besides figures."""
    shown = [
        output.get("text", output.get("data", {}).get("text/plain", "")) for output in cell.outputs
    ]
    return "".join(shown)


def figures(cell: Any) -> list[bytes]:
    data = [output.get("data", {}) for output in cell.outputs]
    return [base64.b64decode(each["image/png"]) for each in data if "image/png" in each]


@pytest.mark.timeout(2 * LONGEST)
def test_the_cells_run_and_show_what_the_committed_ones_show(
    committed: Any, executed: tuple[Any, Path]
) -> None:
    notebook, folder = executed
    for before, now in zip(code(committed), code(notebook), strict=True):
        assert before.source == now.source
        assert len(figures(before)) == len(figures(now)), now.source
        assert bool(text_of(before)) == bool(text_of(now)), now.source
    told = "\n".join(map(text_of, code(notebook)))
    for bad in ("Warning", "Traceback", "ipywidgets", "\x1b[2K"):
        assert bad not in told
    accuracy = {
        name: float(re.search(rf"^ {name} .*?  (\d+\.\d)", told, re.MULTILINE)[1])  # type: ignore[index]
        for name in ("clean", "random noise", "protected")
    }
    assert accuracy["protected"] < accuracy["random noise"] - 20
    assert accuracy["clean"] > 90
    for page in ("runs/tutorial/evaluation/report.html", "runs/sweep/analysis/report.html"):
        assert (folder / page).exists()
        assert page in told


def test_the_committed_outputs_are_of_one_run_from_top_to_bottom(committed: Any) -> None:
    cells = code(committed)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert sum(len(figures(cell)) for cell in cells) == FIGURES


def test_nothing_private_or_large_is_in_it(committed: Any) -> None:
    text = NOTEBOOK.read_text()
    assert len(text) < LARGEST
    assert not re.search(r"/(home|root|tmp|Users|work|usr|opt)/|\.venv|site-packages", text)
    words = "".join(map(text_of, code(committed)))
    assert not re.search(rf"\b{re.escape(getpass.getuser())}\b", words)
    assert set(committed.metadata) == {"kernelspec", "language_info"}
    assert set(committed.metadata.language_info) == {"name"}
    assert all(cell.metadata == {} for cell in committed.cells)


def test_links_lead_somewhere(committed: Any) -> None:
    prose = "\n".join(cell.source for cell in committed.cells if cell.cell_type == "markdown")
    headings = {
        line.lstrip("# ").replace(" ", "-") for line in prose.splitlines() if line[:2] == "##"
    }
    for target in re.findall(r"\]\(([^)]+)\)", prose):
        file, _, anchor = target.partition("#")
        place = NOTEBOOK.parent / file
        assert place.exists(), target
        assert not anchor or anchor in (anchors(place) if file else headings), target


if __name__ == "__main__":
    record()
