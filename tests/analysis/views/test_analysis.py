"""The analysis in Python: sentences, figures and files of a collection."""

from pathlib import Path

import pytest

from analysis import Collection, analyse, read_collection, write_collection
from bigbatch_ue.runtime.errors import UserError
from tests.helpers.findings import a_table


def test_a_collection_becomes_sentences_figures_and_files(tmp_path: Path) -> None:
    table = a_table(batches=(4, 16, 64, 256), budgets=("steps",))
    write_collection(Collection(table, ()), tmp_path)
    found = analyse(read_collection(tmp_path), draws=500)
    told = found.sentences()
    assert len(told) == 3
    assert told[0].startswith("blood8 at equal steps: ")
    assert told[2].startswith("2 data sets, equal steps: ")
    titles = [axes.get_title(loc="left") for axes in found.plot().axes]
    assert titles[0] == "equal steps"
    assert "best B, 95 % interval" in titles
    figure = found.plot("digits")
    assert figure.get_suptitle() == "digits"
    figure.savefig(tmp_path / "digits.png")
    with pytest.raises(UserError, match="mnist: not in the table; it has blood8, digits"):
        found.plot("mnist")
    page = found.write_report(tmp_path / "report")
    assert told[0].partition(":")[0] in page.read_text()
    assert (page.parent / "findings.json").exists()


def test_a_single_data_set_is_drawn_in_detail() -> None:
    table = a_table(("digits",), batches=(4, 16, 64), seeds=2, budgets=("epochs",))
    assert analyse(Collection(table, ()), draws=500).plot().get_suptitle() == "digits"


def test_an_empty_table_is_an_error() -> None:
    with pytest.raises(UserError, match="analyse: the table has no rows"):
        analyse(Collection(a_table().head(0), ()))
