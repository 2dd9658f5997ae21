"""The command line of the analysis: from run folders to a recommendation."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from analysis.defaults import DRAWS, MARGIN
from bigbatch_ue.cli.runner import run
from bigbatch_ue.files.paths import hide_home
from bigbatch_ue.reporting.words import counted
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.extras import require_extra

if TYPE_CHECKING:
    from analysis.views.analysis import Analysis

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
console = Console(soft_wrap=True, highlight=False, markup=False)

Folder = Annotated[
    Path, typer.Argument(help="output folder of `collect`, or any folder with a table.csv")
]
Margin = Annotated[
    float,
    typer.Option(
        min=0, max=1, help="difference in accuracy up to which batch sizes count as equally good"
    ),
]
Draws = Annotated[
    int, typer.Option(min=500, help="number of random draws of the noise of each curve")
]


@app.callback()
def require_packages() -> None:
    """Find the effective batch that protects a data set best, and how certain that is."""
    for package in ("pandas", "pyarrow", "statsmodels"):
        require_extra(package, "analysis", "analysis")


@app.command()
def collect(
    folders: Annotated[list[Path], typer.Argument(help="folders of sweeps or runs")],
    out: Annotated[
        Path | None, typer.Option(help="output folder (default: `analysis` in the first folder)")
    ] = None,
) -> None:
    """Read runs into one table (CSV and parquet); report runs with inconsistent records."""
    from analysis.table.collect import collect as read_runs
    from analysis.table.collect import write_collection

    arguments = [*map(str, folders), *(["--out", str(out)] if out else [])]
    command = hide_home(shlex.join(["python", "-m", "analysis", "collect", *arguments]))
    collection = read_runs(folders)
    out = out or folders[0] / "analysis"
    write_collection(replace(collection, commands=(*collection.commands, command)), out)
    for problem in collection.problems:
        console.print(f"left out: {problem.run}: {problem.reason}")
    table = collection.table
    failed = int(table["failed"].sum())
    console.print(
        f"{out / 'table.csv'}: {counted(len(table), 'row')}, {failed} of failed runs; "
        f"{len(collection.problems)} left out"
    )
    console.print(f"next: {shlex.join(['python', '-m', 'analysis', 'report', str(out)])}")


@app.command()
def fit(folder: Folder, margin: Margin = MARGIN, draws: Draws = DRAWS) -> None:
    """Fit accuracy and instability against B; write findings.json and fits.csv; recommend a B."""
    from analysis.findings.outputs import write_findings

    found = _analyse(folder, margin, draws)
    write_findings(found.findings, folder)
    _print_sentences(found)


@app.command()
def plot(folder: Folder, margin: Margin = MARGIN, draws: Draws = DRAWS) -> None:
    """Plot the curves of each data set, and of all together, as PNG and SVG."""
    from analysis.views.plot import plot as draw

    found = _analyse(folder, margin, draws)
    for path in draw(found.findings, folder / "plots"):
        console.print(str(path))


@app.command()
def tensorboard(folder: Folder, margin: Margin = MARGIN, draws: Draws = DRAWS) -> None:
    """Write scaling curves against B for `tensorboard --logdir`."""
    from analysis.views.tensorboard import write_tensorboard

    found = _analyse(folder, margin, draws)
    write_tensorboard(found.collection.table, found.findings, folder / "tensorboard")
    console.print(f"next: tensorboard --logdir {folder / 'tensorboard'}")


@app.command()
def report(folder: Folder, margin: Margin = MARGIN, draws: Draws = DRAWS) -> None:
    """Write fits, plots, and a page that recommends a batch size (HTML and Markdown)."""
    found = _analyse(folder, margin, draws)
    page = found.write_report(folder)
    _print_sentences(found)
    console.print(f"report: {page}")


@app.command()
def design(
    noise: Annotated[
        str,
        typer.Option(
            help="standard deviation of a run apart from its seed's level, in points of accuracy, "
            "or from:TABLE to take that of a table.csv (measured so far: 3 to 17)"
        ),
    ],
    effect: Annotated[
        float,
        typer.Option(min=0.1, max=100, help="difference of best and worst size, in points"),
    ] = 10,
    sizes: Annotated[
        list[int] | None, typer.Option(help="numbers of batch sizes; repeatable (default: 5 7 9)")
    ] = None,
    seeds: Annotated[
        list[int] | None, typer.Option(help="numbers of seeds; repeatable (default: 3 5 8 12)")
    ] = None,
    spread: Annotated[
        float,
        typer.Option(min=1, help="growth of the standard deviation to the largest batch"),
    ] = 2,
    datasets: Annotated[
        int, typer.Option(min=1, help="data sets in which that growth is looked for together")
    ] = 1,
) -> None:
    """Say what a sweep of so many sizes and seeds can find, before it is run."""
    from analysis.planner.design import advice, noise_of, plan_designs, power_table

    std, words = noise_of(noise)
    grid = (sizes or [5, 7, 9], seeds or [3, 5, 8, 12])
    found = plan_designs(*grid, effect=effect / 100, noise=std, growth=spread, datasets=datasets)
    console.print(power_table(found, effect=effect / 100, growth=spread), soft_wrap=False)
    console.print(f"Noise of a run: {words}.")
    if datasets > 1:
        console.print(f"The spread is that of {datasets} data sets together.")
    console.print(advice(found))


@app.command()
def compare(
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]PATH",
            help="evaluated runs, evaluation folders or results.json files; NAME names the method, "
            "and several places of one NAME are repetitions of it",
        ),
    ],
    out: Annotated[Path, typer.Option(help="output folder")] = Path("runs/leaderboard"),
) -> None:
    """Compare methods of protection in one table with intervals: a leaderboard (HTML and CSV)."""
    from analysis.findings.leaderboard import compare as compare_methods
    from analysis.table.evaluations import read_evaluations
    from analysis.views.leaderboard import leaderboard_tables, remarks, write_leaderboard

    board = compare_methods(read_evaluations(places))
    words = ["python", "-m", "analysis", "compare", *places, "--out", str(out)]
    page = write_leaderboard(board, out, hide_home(shlex.join(words)))
    for table in leaderboard_tables(board):
        console.print(table, soft_wrap=False)
    for line in remarks(board):
        console.print(line)
    console.print(f"leaderboard: {page}")


@app.command()
def scaling(
    folders: Annotated[
        list[Path], typer.Argument(help="folders with a records.jsonl of `bigbatch-ue bench`")
    ],
    out: Annotated[
        Path | None, typer.Option(help="output folder (default: `scaling` in the first folder)")
    ] = None,
) -> None:
    """Compare speed, memory and traffic against B: a table (CSV), plots, TensorBoard curves."""
    from analysis.scaling.table import read_records, scaling_table, workloads, write_scaling
    from analysis.scaling.tensorboard import write_scaling_tensorboard
    from analysis.scaling.views import plot_scaling, terminal_table

    records, notes = read_records(folders)
    out = out or folders[0] / "scaling"
    for note in notes:
        console.print(note)
    table = scaling_table(records)
    path = write_scaling(table, out)
    plots = f"; plots: {out / 'plots'}" if plot_scaling(table, out / "plots") else ""
    write_scaling_tensorboard(table, out / "tensorboard")
    for title, rows in workloads(table):
        console.print(terminal_table(title, rows), soft_wrap=False)
    console.print(
        f"{path}: {counted(len(table), 'row')} of {counted(len(records), 'record')}{plots}; "
        f"next: tensorboard --logdir {out / 'tensorboard'}",
    )


@app.command()
def machines(
    out: Annotated[Path, typer.Option(help="output folder")] = Path("runs/machines"),
) -> None:
    """Estimate steps on Summit, Frontier and nodes of H100: weak and strong scaling, as a plot."""
    from analysis.scaling.machines import machines_table, plot_machines

    console.print(machines_table(), soft_wrap=False)
    for path in plot_machines(out):
        console.print(str(path))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; see `bigbatch_ue.cli.runner.run` for its exit codes."""
    run(app, arguments)


def _analyse(folder: Path, margin: float, draws: int) -> "Analysis":
    from analysis.table.collect import read_collection
    from analysis.views.analysis import analyse

    collection = read_collection(folder)
    if collection.table.empty:
        raise UserError(f"{folder / 'table.csv'}: the table has no rows")
    return analyse(collection, margin=margin, draws=draws)


def _print_sentences(found: "Analysis") -> None:
    for sentence in found.sentences():
        console.print(sentence)
