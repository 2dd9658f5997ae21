import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from analysis.findings.findings import Findings, analyse
from analysis.findings.sentences import recommendation, together_statement
from analysis.table.collect import Collection, Problem
from analysis.views.plot import ALL, file_names
from analysis.views.report import write_report
from tests.helpers.findings import a_finding, a_table

EVIL = "My <b>set</b> | `x`"
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.headings: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)


def a_collection(table: pd.DataFrame) -> Collection:
    return Collection(
        table,
        (Problem("digits|b8", "not <i>evaluated</i>\nyet"),),
        {"digits": {"data": {"name": "digits"}}},
        ("bigbatch-ue sweep --config sweep.yaml",),
        {"numpy": "2.3.1"},
    )


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return a_table(failures=(("digits", 2, 3),)).replace({"dataset": {"blood8": EVIL}})


@pytest.fixture(scope="module")
def findings(table: pd.DataFrame) -> Findings:
    return analyse(table, draws=100)


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, table: pd.DataFrame, findings: Findings
) -> Path:
    folder = tmp_path_factory.mktemp("report")
    assert write_report(a_collection(table), findings, folder) == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "report.html").read_text()


@pytest.fixture(scope="module")
def markdown(folder: Path) -> str:
    return (folder / "report.md").read_text()


def tables(markdown: str) -> Iterator[list[str]]:
    for block in re.split(r"\n\n+", markdown):
        if block.startswith("|"):
            yield block.splitlines()


def cells(line: str) -> int:
    return len(re.findall(r"(?<!\\)\|", line)) - 1


def test_the_page_is_small_and_self_contained(page: str) -> None:
    parsed = Page(page)
    assert parsed.open == []
    assert len(parsed.links) == 2 + 4 + 2
    assert all(link.startswith("data:image/webp;base64,") for link in parsed.links)
    assert len(page) < 1_500_000
    assert not re.search(r"https?://|@import|url\(", page)


def test_the_page_begins_with_advice_and_ends_with_how_to_repeat_it(page: str) -> None:
    assert Page(page).headings == [
        "Which batch size protects best",
        "How to read this",
        "Curves",
        "Accuracy at each batch size",
        "Shape of the curves",
        "Instability",
        "Which seeds to buy next",
        "Batch size or steps?",
        "Failed and left-out runs",
        "How to repeat this",
    ]
    assert "bigbatch-ue sweep --config sweep.yaml\npython -m analysis report " in page


def test_both_have_every_recommendation_and_statement(
    page: str, markdown: str, findings: Findings
) -> None:
    plain = page.replace("\N{NO-BREAK SPACE}", " ").replace("&lt;", "<")
    for finding in findings.findings[2:]:
        _, said = recommendation(finding).split(": ", 1)
        assert f"<strong>digits at equal {finding.curve.budget}:</strong> {said}" in plain
        assert f"* {recommendation(finding)}\n" in markdown
    for separation in findings.separations:
        assert separation.statement in plain
        assert separation.statement in markdown
    assert len(findings.together) == 2
    for one in findings.together:
        title, said = together_statement(one).partition(" The factor")[0].split(": ", 1)
        assert f"* {title}: {said}" in markdown
        assert f"<strong>{title}:</strong> {said}" in plain
    assert "Data sets together" in plain


def test_names_are_never_taken_for_markup(page: str, markdown: str) -> None:
    assert "<b>" not in page
    assert "<i>" not in page
    assert "My &lt;b&gt;set&lt;/b&gt; | `x`" in page
    assert r"### My \<b>set\</b> \| \`x\`, equal epochs" in markdown
    assert r"| digits\|b8 | left out | not \<i>evaluated\</i> yet |" in markdown


def test_markdown_tables_have_as_many_cells_in_every_row(markdown: str) -> None:
    found = list(tables(markdown))
    assert len(found) == 4 + 6
    for lines in found:
        assert len({cells(line) for line in lines}) == 1
        assert re.fullmatch(r"\|( --- \|)+", lines[1])


def test_markdown_shows_the_plots_beside_it(markdown: str, findings: Findings) -> None:
    shown = re.findall(r"!\[.*\]\((.+)\)", markdown)
    names = list(file_names(findings).values())
    wanted = [ALL, *names, *(f"steps-{name}" for name in names)]
    assert shown == [f"plots/{name}.png" for name in wanted]


def test_accuracies_are_listed_by_size_with_speed_and_memory(markdown: str) -> None:
    assert re.search(
        r"### digits, equal epochs\n\n\| B .*\n.*\n"
        r"\| 2 \| [\d.]+ \| [\d.]+ to [\d.]+ \| [\d.]+ \| [\d.]+ "
        r"\| 4 \| 1 \| 1,400 \| 396 \| 217 \|",
        markdown,
    )


def test_failed_and_left_out_runs_are_listed_with_reasons(page: str, markdown: str) -> None:
    for text in (page, markdown):
        assert "digits-epochs-b2-s3" in text
        assert "loss is not finite at step 41" in text
    assert "not &lt;i&gt;evaluated&lt;/i&gt;\nyet" in page


def test_one_budget_without_fits_or_failures_makes_a_report(tmp_path: Path) -> None:
    table = a_table(("digits",), seeds=1, budgets=("steps",))
    found = analyse(table, draws=100)
    page = write_report(Collection(table, ()), found, tmp_path).read_text()
    markdown = (tmp_path / "report.md").read_text()
    for text in (page, markdown):
        assert "cannot be distinguished from that of the number of steps" in text
        assert "None." in text
        assert "not fitted: " in text
    assert len(Page(page).links) == 1
    for lines in tables(markdown):
        assert len({cells(line) for line in lines}) == 1


@pytest.mark.usefixtures("no_drawings")
def test_other_arms_are_apart_from_the_recommendation(tmp_path: Path) -> None:
    arms = [a_finding(), a_finding(arm="random surrogate")]
    table = a_table(("digits",), batches=(16, 32, 64, 128), budgets=("steps",))
    write_report(Collection(table, ()), Findings(tuple(arms)), tmp_path)
    first, rest = (tmp_path / "report.md").read_text().split("## How to read this")
    assert "digits at equal steps" in first
    assert "random surrogate" not in first
    assert "### Other arms\n\n* digits, random surrogate at equal steps: B matters" in rest


@pytest.mark.usefixtures("no_drawings")
def test_agreement_stands_beside_protection(tmp_path: Path) -> None:
    table = a_table(("digits",), batches=(16, 32, 64, 128), budgets=("steps",))
    told = table.assign(agreement=0.912, purity=0.95)
    write_report(Collection(told, ()), Findings((a_finding(),)), tmp_path)
    page = (tmp_path / "report.md").read_text()
    assert "| digits, equal steps | 0.91 | 0.95 | 99.0 | 38.4 | 60.6 |" in page
    write_report(Collection(table, ()), Findings((a_finding(),)), tmp_path)
    assert "what the clusters tell" not in (tmp_path / "report.md").read_text()
