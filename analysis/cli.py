"""The command line of the analysis: from run folders to a recommendation."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from bigbatch_ue.cli.runner import run
from bigbatch_ue.files.paths import hide_home
from bigbatch_ue.runtime.errors import UserError

if TYPE_CHECKING:
    from analysis.findings.findings import Findings

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Which effective batch protects a data set best, and how sure that is.",
)
console = Console(soft_wrap=True, highlight=False, markup=False)

Folder = Annotated[
    Path, typer.Argument(help="what `collect` wrote, or any folder with a table.csv")
]
Margin = Annotated[
    float, typer.Option(min=0, max=1, help="accuracies this close to the best are as good")
]
Draws = Annotated[int, typer.Option(min=100, help="bootstrap draws")]


@app.command()
def collect(
    folders: Annotated[list[Path], typer.Argument(help="folders of sweeps or runs")],
    out: Annotated[
        Path | None, typer.Option(help="where to (default: `analysis` in the first folder)")
    ] = None,
) -> None:
    """Read runs into one table (CSV and parquet); say which contradict themselves."""
    from analysis.table.collect import collect as read_runs
    from analysis.table.collect import write_collection

    places = [*map(str, folders), *(["--out", str(out)] if out else [])]
    command = hide_home(shlex.join(["python", "-m", "analysis", "collect", *places]))
    collection = read_runs(folders)
    out = out or folders[0] / "analysis"
    write_collection(replace(collection, commands=(*collection.commands, command)), out)
    for problem in collection.problems:
        console.print(f"left out: {problem.run}: {problem.reason}")
    table = collection.table
    failed = int(table["failed"].sum())
    console.print(
        f"{out / 'table.csv'}: {len(table)} rows, {failed} of failed runs; "
        f"{len(collection.problems)} left out"
    )
    console.print(f"next: python -m analysis report {out}")


@app.command()
def fit(folder: Folder, margin: Margin = 0.02, draws: Draws = 1000) -> None:
    """Fit accuracy and instability against B: findings.json, fits.csv, and in plain words."""
    from analysis.findings.findings import write_findings

    findings = _find(folder, margin, draws)
    write_findings(findings, folder)
    _say(findings)


@app.command()
def plot(folder: Folder, margin: Margin = 0.02, draws: Draws = 1000) -> None:
    """Draw the curves, each data set and all together, as PNG and SVG."""
    from analysis.views.plot import plot as draw

    for path in draw(_find(folder, margin, draws), folder / "plots"):
        console.print(str(path))


@app.command()
def tensorboard(folder: Folder, margin: Margin = 0.02, draws: Draws = 1000) -> None:
    """Write scaling curves against B for `tensorboard --logdir`."""
    from analysis.table.collect import read_collection
    from analysis.views.tensorboard import write_tensorboard

    write_tensorboard(
        read_collection(folder).table, _find(folder, margin, draws), folder / "tensorboard"
    )
    console.print(f"next: tensorboard --logdir {folder / 'tensorboard'}")


@app.command()
def report(folder: Folder, margin: Margin = 0.02, draws: Draws = 1000) -> None:
    """All of it: fits, plots, and one page that recommends a batch size (HTML and Markdown)."""
    from analysis.findings.findings import write_findings
    from analysis.table.collect import read_collection
    from analysis.views.plot import plot as draw
    from analysis.views.report import write_report

    collection, findings = read_collection(folder), _find(folder, margin, draws)
    write_findings(findings, folder)
    draw(findings, folder / "plots")
    page = write_report(collection, findings, folder)
    _say(findings)
    console.print(f"report: {page}")


@app.command()
def scaling(
    folders: Annotated[
        list[Path], typer.Argument(help="folders with a records.jsonl of `bigbatch-ue bench`")
    ],
    out: Annotated[
        Path | None, typer.Option(help="where to (default: `scaling` in the first folder)")
    ] = None,
) -> None:
    """Speed, memory and traffic against B: a table (CSV), plots, and curves for TensorBoard."""
    from analysis.scaling.table import read_records, scaling_table, workloads, write_scaling
    from analysis.scaling.tensorboard import write_scaling_tensorboard
    from analysis.scaling.views import plot_scaling, terminal_table

    records, notes = read_records(folders)
    out = out or folders[0] / "scaling"
    for note in notes:
        console.print(note)
    table = scaling_table(records)
    path = write_scaling(table, out)
    plot_scaling(table, out / "plots")
    write_scaling_tensorboard(table, out / "tensorboard")
    for title, rows in workloads(table):
        console.print(terminal_table(title, rows), soft_wrap=False)
    console.print(
        f"{path}: {len(table)} rows of {len(records)} records; plots: {out / 'plots'}; "
        f"next: tensorboard --logdir {out / 'tensorboard'}",
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; see `bigbatch_ue.cli.runner.run` for its exit codes."""
    run(app, arguments)


def _find(folder: Path, margin: float, draws: int) -> "Findings":
    from analysis.findings.findings import analyse
    from analysis.table.collect import read_collection

    table = read_collection(folder).table
    if table.empty:
        raise UserError(f"{folder}: the table has no rows")
    return analyse(table, margin=margin, draws=draws)


def _say(findings: "Findings") -> None:
    from analysis.findings.critical_batch import statements
    from analysis.findings.findings import recommendation

    for finding in findings.findings:
        console.print(recommendation(finding))
    for statement in statements(findings).values():
        console.print(statement)
    for separation in findings.separations:
        console.print(f"{separation.dataset}: {separation.statement}")
