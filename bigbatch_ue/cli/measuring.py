"""The commands that measure: protection, many runs, and speed."""

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from bigbatch_ue.cli.checks import (
    parse_shard,
    require_external,
    require_run,
    require_sweep,
)
from bigbatch_ue.cli.completion import complete_setting, complete_target
from bigbatch_ue.cli.options import (
    ConfigFile,
    Download,
    Overrides,
    Place,
    Preset,
    console,
    suggest,
)
from bigbatch_ue.config.load import load_config, revise_evaluation
from bigbatch_ue.config.names import TARGETS, ArmName, MeasuredPath
from bigbatch_ue.files.paths import hide_home
from bigbatch_ue.reporting.words import counted
from bigbatch_ue.runs.trackers import require_trackers
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.ranks import is_main_process


def evaluate(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN [KEY=VALUE]...",
            help="folder of a finished run (omitted with --protected), and settings, such as "
            "evaluation.countermeasures=all",
            autocompletion=complete_setting,
        ),
    ] = None,
    protected: Annotated[
        str | None,
        typer.Option(
            help="evaluate these images instead: folder:PATH, npz:PATH, parquet:PATH or "
            "wds:PATTERN; data.name is the clean original"
        ),
    ] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    target: Annotated[
        str | None,
        typer.Option(
            help=f"preset of the target network: {', '.join(TARGETS)}",
            autocompletion=complete_target,
        ),
    ] = None,
    seeds: Annotated[
        list[int] | None, typer.Option("--seed", min=0, help="evaluation.seeds; repeatable")
    ] = None,
    arms: Annotated[
        list[ArmName] | None, typer.Option("--arm", help="evaluation.arms; repeatable")
    ] = None,
    shard: Annotated[str, typer.Option(help="I/N: train the I-th of N parts of the arms")] = "1/1",
    place: Place = None,
    download: Download = False,
) -> None:
    """Train targets on clean, control and protected images; test them on clean ones."""
    given = list(arguments or ())
    listed = {"seeds": seeds, "arms": arms}
    overrides = [f"evaluation.{key}=[{', '.join(map(str, v))}]" for key, v in listed.items() if v]
    options: Any = {"shard": parse_shard(shard), "download": download, "command": _command_line()}
    if protected is not None and place is not None:
        raise UserError("--data: is for a run; with --protected, set data.name=folder:PATH instead")
    if protected is None:
        if not given or preset or config:
            raise UserError(
                "evaluate: name the folder of a finished run; --preset and --config need "
                "--protected"
            )
        folder = Path(given.pop(0))
        overrides += given
        require_trackers(require_run(folder, place, download, target, overrides).tracking)
        from bigbatch_ue.evaluation.evaluate import evaluate as evaluate_run

        results = evaluate_run(folder, place=place, target=target, overrides=overrides, **options)
    else:
        resolved = revise_evaluation(load_config(preset, config, given), target, overrides)
        require_external(resolved, protected, download)
        from bigbatch_ue.evaluation.evaluate import evaluate_external

        results = evaluate_external(resolved, protected, **options)
    if is_main_process():
        console.print(results.table())
        for line in results.sentences():
            console.print(line, soft_wrap=True)


def sweep(
    config: Annotated[
        Path, typer.Option("--config", help="YAML file of the sweep: data sets, batches, ...")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="settings of the sweep, such as seeds=[0,1]")
    ] = None,
    shard: Annotated[
        str, typer.Option(help="I/N: start with the I-th of N parts, as one of N jobs")
    ] = "1/1",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="list the cells and their estimated times")
    ] = False,
    retry: Annotated[bool, typer.Option("--retry", help="run failed cells again")] = False,
    download: Download = False,
) -> None:
    """Train, protect and evaluate at many batch sizes, seeds and budgets.

    Run the same command again to continue.
    """
    from bigbatch_ue.sweeps.spec import load_sweep

    part, settings = parse_shard(shard), load_sweep(config, overrides or ())
    require_sweep(settings, download)
    from bigbatch_ue.sweeps.cells import sweep_cells
    from bigbatch_ue.sweeps.jobs import run_sweep
    from bigbatch_ue.sweeps.pilot import chosen_strengths, describe_pilot, with_strengths
    from bigbatch_ue.sweeps.power import describe_power
    from bigbatch_ue.sweeps.progress import cell_table

    if dry_run:
        about_strength: list[str] = []
        if settings.strength == "midway":
            chosen = chosen_strengths(settings, download=download)
            about_strength = list(map(str, chosen)) if chosen else [describe_pilot(settings)]
            settings = with_strengths(settings, chosen) if chosen else settings
        planned = sweep_cells(settings, download=download)
        console.print(cell_table(planned))
        for line in (describe_power([cell.config for cell in planned]), *about_strength):
            console.print(line, soft_wrap=True)
        return
    cells = run_sweep(settings, shard=part, retry=retry, download=download)
    states = Counter(outcome.state if outcome else "claimed" for _, outcome in cells)
    failed = states["failed"]
    console.print(
        f"{counted(len(cells), 'cell')}: {states['finished']} finished, {failed} failed, "
        f"{states['claimed']} claimed by other jobs"
    )
    suggest("python", "-m", "analysis", "collect", settings.output)
    if failed:
        raise typer.Exit(1)


def report(
    folders: Annotated[list[Path], typer.Argument(help="evaluated runs, or evaluation folders")],
    out: Annotated[Path, typer.Option(help="output folder")],
) -> None:
    """Combine several evaluations in one page and one results.json."""
    from bigbatch_ue.evaluation.report.page import write_report

    console.print(f"report: {write_report(folders, out)}", soft_wrap=True)


def bench(
    overrides: Overrides = None,
    preset: Preset = None,
    config: ConfigFile = None,
    batches: Annotated[
        list[int] | None, typer.Option("--batch", min=1, help="effective batch; repeatable")
    ] = None,
    micros: Annotated[
        list[str] | None,
        typer.Option("--micro", help="maximum images in a micro-batch, or auto; repeatable"),
    ] = None,
    paths: Annotated[
        list[MeasuredPath] | None,
        typer.Option(
            "--path",
            help="gradient path; baseline: as in the public code; target: training of the target, "
            "whatever the effective batch; repeatable",
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="repetitions of each case")] = 3,
    at_most: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="measure at most this many micro-batches on the engine and baseline paths, and "
            "extrapolate",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="folder of the records")] = Path("runs/bench"),
) -> None:
    """Measure speed, memory and traffic of optimizer steps on random images."""
    resolved = load_config(preset, config, overrides or ())
    for micro in micros or ():
        if micro != "auto" and not (micro.isdecimal() and int(micro) > 0):
            raise UserError(f"--micro {micro}: expected a positive number of images, or auto")
    from bigbatch_ue.benchmark.session import bench as run_bench

    run_bench(
        resolved,
        batches=batches or [resolved.batch.given],
        micros=["auto" if m == "auto" else int(m) for m in micros or ("auto",)],
        paths=paths or tuple(MeasuredPath),
        rounds=rounds,
        at_most=at_most,
        out=out,
        say=lambda line: console.print(line, highlight=False),
    )
    if is_main_process():
        suggest("python", "-m", "analysis", "scaling", out)


def demo(
    folder: Annotated[Path, typer.Option(help="output folder")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(min=0, help="seed of the runs and of the targets")] = 0,
) -> None:
    """Protect real digits at three effective batches, and evaluate the protection."""
    from bigbatch_ue.cli.demo import demo as run_demo

    run_demo(folder, seed=seed)


def _command_line() -> list[str]:
    """Return the command line of this process, with the home directory as `~`."""
    return ["bigbatch-ue", *map(hide_home, sys.argv[1:])]
