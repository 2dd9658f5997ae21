"""The commands of `bigbatch-ue`: one for each stage."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import typer.exceptions
from rich.console import Console
from rich.table import Column, Table

from bigbatch_ue.cli.runner import run
from bigbatch_ue.config.load import load_config, revise_evaluation
from bigbatch_ue.config.names import PRESETS, TARGETS, ArmName, GradientPath
from bigbatch_ue.files.paths import hide_home
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.ranks import EngineName, is_main_process

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Make images useless for unauthorised training: unlearnable clusters at any batch size.",
)
console = Console(markup=False)

Overrides = Annotated[
    list[str] | None, typer.Argument(help="settings, such as batch.effective=4096 seed=1")
]
Preset = Annotated[str | None, typer.Option(help=f"one of: {', '.join(PRESETS)}")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="a YAML file of settings")]
Download = Annotated[bool, typer.Option("--download", help="allow the data set to be downloaded")]
RunFolder = Annotated[Path, typer.Argument(help="folder of a finished run")]


@app.command()
def datasets(
    root: Annotated[Path, typer.Option(help="where data files are kept (data.root)")] = Path(
        "data"
    ),
) -> None:
    """List the data sets, and where their files go."""
    from bigbatch_ue.data.datasets import catalogue

    table = Table("name", "what", "sizes", Column("files", overflow="fold"), "here")
    for row in catalogue(root):
        here = "yours" if ":" in row.name else "yes" if row.present else "no"
        table.add_row(row.name, row.what, row.sizes, row.place, here)
    console.print(table)
    console.print("MedMNIST files: <name>.npz at 28 pixels, <name>_<size>.npz above.")


@app.command()
def plan(
    overrides: Overrides = None,
    preset: Preset = None,
    config: ConfigFile = None,
    ranks: Annotated[int | None, typer.Option(min=1, help="ranks (default: as launched)")] = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="train images (default: count the data set's)")
    ] = None,
    engine: Annotated[
        EngineName,
        typer.Option(help="engine, for the expected memory"),
    ] = EngineName.SINGLE,
    download: Download = False,
) -> None:
    """Print how the effective batch would be made, without training."""
    from bigbatch_ue.cli.plan_table import plan_table
    from bigbatch_ue.runtime.ranks import world_size

    resolved = load_config(preset, config, overrides or ())
    console.print(plan_table(resolved, ranks or world_size(), images, engine, download))


@app.command()
def train(
    overrides: Overrides = None,
    preset: Preset = None,
    config: ConfigFile = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="continue from the last checkpoint")
    ] = False,
    download: Download = False,
    time_limit: Annotated[
        float | None,
        typer.Option(min=0, metavar="MINUTES", help="then write a checkpoint and end with code 75"),
    ] = None,
) -> None:
    """Train the perturbations of one data set at one effective batch."""
    from bigbatch_ue.training.train import train as run_training

    resolved = load_config(preset, config, overrides or ())
    run = run_training(resolved, resume=resume, download=download, time_limit=time_limit)
    if is_main_process():
        console.print(f"perturbations: {run.perturbations}", soft_wrap=True)
        console.print(f"next: bigbatch-ue protect {run.folder}", soft_wrap=True)


@app.command()
def protect(
    run: RunFolder,
    out: Annotated[Path | None, typer.Option(help="where to (default: RUN/protected)")] = None,
    form: Annotated[
        Literal["png", "npz"] | None, typer.Option(help="default: what the source is")
    ] = None,
    at: Annotated[
        Literal["training", "original"],
        typer.Option(help="size: as trained on, or perturbations resized to each original"),
    ] = "original",
    download: Download = False,
) -> None:
    """Write the protected data set, and measure it on the written files."""
    from bigbatch_ue.protection.protect import protect as write_protected

    console.print(str(write_protected(run, out=out, form=form, at=at, download=download)))


@app.command()
def evaluate(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN [KEY=VALUE]...",
            help="folder of a finished run (none with --protected), and settings such as "
            "evaluation.countermeasures=all",
        ),
    ] = None,
    protected: Annotated[
        str | None,
        typer.Option(
            help="judge these instead: folder:PATH or npz:PATH beside the clean data.name"
        ),
    ] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    target: Annotated[
        str | None, typer.Option(help=f"train another network: {', '.join(TARGETS)}")
    ] = None,
    seeds: Annotated[
        list[int] | None, typer.Option("--seed", min=0, help="repeatable: evaluation.seeds")
    ] = None,
    arms: Annotated[
        list[ArmName] | None, typer.Option("--arm", help="repeatable: evaluation.arms")
    ] = None,
    shard: Annotated[str, typer.Option(help="I/N: do the I-th of N parts of the arms")] = "1/1",
    download: Download = False,
) -> None:
    """Train targets on clean, control and protected images; test them on clean ones."""
    from bigbatch_ue.evaluation.evaluate import evaluate as judge_run
    from bigbatch_ue.evaluation.evaluate import evaluate_external
    from bigbatch_ue.evaluation.report.terminal import arms_table

    given = list(arguments or ())
    listed = {"seeds": seeds, "arms": arms}
    short = [f"evaluation.{key}=[{', '.join(map(str, v))}]" for key, v in listed.items() if v]
    how: Any = {"shard": _shard(shard), "download": download, "command": _command()}
    if protected is None:
        if not given or preset or config:
            raise UserError(
                "name the folder of a finished run; --preset and --config go with --protected"
            )
        folder = Path(given.pop(0))
        found = judge_run(folder, target=target, overrides=[*short, *given], **how)
    else:
        resolved = revise_evaluation(load_config(preset, config, given), target, short)
        found = evaluate_external(resolved, protected, **how)
    if is_main_process():
        console.print(arms_table(found))


@app.command()
def sweep(
    config: Annotated[Path, typer.Option("--config", help="a YAML file: data sets, batches, ...")],
    overrides: Overrides = None,
    shard: Annotated[
        str, typer.Option(help="I/N: begin with the I-th of N parts, as one of N jobs")
    ] = "1/1",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="list the cells and what they would cost")
    ] = False,
    retry: Annotated[bool, typer.Option("--retry", help="do failed cells again")] = False,
    download: Download = False,
) -> None:
    """Train, protect and evaluate at many batch sizes, seeds and budgets; start again to go on."""
    from bigbatch_ue.sweeps.cells import sweep_cells
    from bigbatch_ue.sweeps.jobs import run_sweep
    from bigbatch_ue.sweeps.progress import cell_table
    from bigbatch_ue.sweeps.spec import load_sweep

    settings = load_sweep(config, overrides or ())
    if dry_run:
        console.print(cell_table(sweep_cells(settings, download=download)))
        return
    done = run_sweep(settings, shard=_shard(shard), retry=retry, download=download)
    outcomes = [outcome for _, outcome in done]
    failed = sum(outcome is not None and not outcome.finished for outcome in outcomes)
    others = outcomes.count(None)
    finished = len(done) - failed - others
    console.print(
        f"{len(done)} cells: {finished} finished, {failed} failed, {others} with other jobs"
    )
    console.print(f"next: python -m analysis collect {settings.output}", soft_wrap=True)
    if failed:
        raise typer.Exit(1)


@app.command()
def report(
    folders: Annotated[
        list[Path], typer.Argument(help="evaluation folders, such as runs/a/evaluation")
    ],
    out: Annotated[Path, typer.Option(help="where the page and the records go")],
) -> None:
    """Put several evaluations on one page, and their records into one results.json."""
    from bigbatch_ue.evaluation.report.page import write_report

    console.print(f"report: {write_report(folders, out)}", soft_wrap=True)


@app.command()
def bench(
    overrides: Overrides = None,
    preset: Preset = None,
    config: ConfigFile = None,
    batches: Annotated[
        list[int] | None, typer.Option("--batch", min=1, help="repeatable: effective batches")
    ] = None,
    micros: Annotated[
        list[str] | None, typer.Option("--micro", help="repeatable: most images in a pass, or auto")
    ] = None,
    paths: Annotated[
        list[GradientPath] | None,
        typer.Option("--path", help="repeatable: gradient paths, and the public code's way"),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="repetitions, in turn")] = 3,
    at_most: Annotated[
        int | None,
        typer.Option(min=1, help="time so many micro-batches of engine and baseline, and scale"),
    ] = None,
    out: Annotated[Path, typer.Option(help="folder of the records")] = Path("runs/bench"),
) -> None:
    """Measure speed, memory, energy and traffic of optimizer steps, on random images."""
    from bigbatch_ue.benchmark.session import bench as run_bench

    resolved = load_config(preset, config, overrides or ())
    wrong = [m for m in micros or () if m != "auto" and not (m.isdecimal() and int(m) > 0)]
    if wrong:
        raise UserError(f"--micro {wrong[0]}: expected a number from 1, or auto")
    run_bench(
        resolved,
        batches=batches or [resolved.batch.effective],
        micros=["auto" if m == "auto" else int(m) for m in micros or ("auto",)],
        paths=paths or tuple(GradientPath),
        rounds=rounds,
        at_most=at_most,
        out=out,
        say=lambda line: console.print(line, highlight=False),
    )
    if is_main_process():
        console.print(f"next: python -m analysis scaling {out}", soft_wrap=True)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="where everything is written")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Protect real digits at three effective batches, and see that it worked."""
    from bigbatch_ue.cli.demo import demo as run_demo

    run_demo(folder, seed=seed)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; see `runner.run` for its exit codes."""
    run(app, arguments)


def _shard(text: str) -> tuple[int, int]:
    """`text` of the form I/N as (I, N), 1 <= I <= N."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise UserError(f"--shard {text}: expected I/N with I from 1 to N, such as 2/4")
    return int(index), int(count)


def _command() -> list[str]:
    """What the user typed, without the way to their home folder."""
    return ["bigbatch-ue", *map(hide_home, sys.argv[1:])]
