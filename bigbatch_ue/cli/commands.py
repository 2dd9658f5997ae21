"""The commands of `bigbatch-ue`, one for each stage."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import typer.exceptions
from rich.console import Console
from rich.table import Column, Table

from bigbatch_ue.cli.checks import (
    parse_shard,
    require_external,
    require_images,
    require_protector,
    require_run,
    require_sweep,
)
from bigbatch_ue.cli.runner import run
from bigbatch_ue.config.bundled import preset_as_yaml, purposes
from bigbatch_ue.config.load import load_config, revise_evaluation
from bigbatch_ue.config.names import PARITY, PRESETS, TARGETS, ArmName, GradientPath
from bigbatch_ue.files.paths import hide_home
from bigbatch_ue.reporting.words import counted
from bigbatch_ue.runtime.console import whole_lines
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.ranks import EngineName, is_main_process, world_size

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Make images useless for unauthorised training: unlearnable clusters at any batch size.",
)
console = whole_lines(Console(markup=False))

_PRESETS = (
    f"one of: {', '.join(name for name in PRESETS if not name.endswith(PARITY))}; a data set's "
    f"name with {PARITY} has the settings of the study; `bigbatch-ue presets NAME` shows them"
)
Overrides = Annotated[
    list[str] | None, typer.Argument(help="settings, such as batch.effective=4096 seed=1")
]
Preset = Annotated[str | None, typer.Option(help=_PRESETS)]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file of settings")]
Download = Annotated[bool, typer.Option("--download", help="allow the data set to be downloaded")]
RunFolder = Annotated[Path, typer.Argument(help="folder of a finished run")]
Place = Annotated[
    str | None,
    typer.Option("--data", help="where the run's images are now, if moved: folder:PATH, npz:PATH"),
]


@app.command()
def datasets(
    root: Annotated[Path, typer.Option(help="folder of the data files (data.root)")] = Path("data"),
) -> None:
    """List the data sets and the places of their files."""
    from bigbatch_ue.data.datasets import catalogue

    table = Table("name", "content", "sizes", Column("files", overflow="fold"), "present")
    for entry in catalogue(root):
        present = "yours" if ":" in entry.name else "yes" if entry.present else "no"
        table.add_row(entry.name, entry.what, entry.sizes, entry.place, present)
    console.print(table)
    console.print("MedMNIST files: <name>.npz at 28 pixels, <name>_<size>.npz at larger sizes.")


@app.command()
def presets(
    name: Annotated[
        str | None, typer.Argument(help="preset whose settings to show, as YAML for --config")
    ] = None,
) -> None:
    """List the presets and what they are for, or show the settings of one."""
    if name is not None:
        print(preset_as_yaml(name), end="")
        return
    for purpose, names in purposes().items():
        console.print(f"{', '.join(names)}\n    {purpose}")
    console.print("next: bigbatch-ue presets NAME")


@app.command()
def plan(
    overrides: Overrides = None,
    preset: Preset = None,
    config: ConfigFile = None,
    ranks: Annotated[
        int | None, typer.Option(min=1, help="number of ranks (default: as launched)")
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(min=1, help="number of train images (default: those of the data set)"),
    ] = None,
    engine: Annotated[
        EngineName,
        typer.Option(help="engine to plan the memory for"),
    ] = EngineName.SINGLE,
    agreement: Annotated[
        bool,
        typer.Option(
            "--agreement", help="group the images, and say how much the clusters tell of the labels"
        ),
    ] = False,
    download: Download = False,
) -> None:
    """Show the batch plan and the memory it needs, without training."""
    resolved = load_config(preset, config, overrides or ())
    if images is None:
        require_images(resolved, download)
    from bigbatch_ue.cli.plan_table import plan_table

    number = ranks or world_size()
    console.print(plan_table(resolved, number, images, engine, download, agreement))


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
        typer.Option(
            min=0, metavar="MINUTES", help="stop after MINUTES with a checkpoint (exit code 75)"
        ),
    ] = None,
) -> None:
    """Train the perturbations of one data set at one effective batch."""
    resolved = load_config(preset, config, overrides or ())
    require_images(resolved, download)
    from bigbatch_ue.training.train import train as run_training

    run = run_training(resolved, resume=resume, download=download, time_limit=time_limit)
    if is_main_process():
        console.print(f"perturbations: {run.perturbations}", soft_wrap=True)
        console.print(f"next: bigbatch-ue protect {run.folder}", soft_wrap=True)


@app.command()
def protect(
    run: RunFolder,
    place: Place = None,
    out: Annotated[Path | None, typer.Option(help="output folder (default: RUN/protected)")] = None,
    form: Annotated[
        Literal["png", "npz"] | None, typer.Option(help="file format (default: same as the source)")
    ] = None,
    at: Annotated[
        Literal["training", "original"],
        typer.Option(help="image size: as in training, or original, with perturbations resized"),
    ] = "original",
    download: Download = False,
) -> None:
    """Write the protected data set, and measure the visibility of its perturbations."""
    require_run(run, place, download)
    from bigbatch_ue.protection.protect import protect as write_protected

    console.print(
        str(write_protected(run, place=place, out=out, form=form, at=at, download=download))
    )
    moved = f" --data {place}" if place else ""
    console.print(f"next: bigbatch-ue evaluate {run}{moved}", soft_wrap=True)


@app.command()
def apply(
    protector: Annotated[Path, typer.Argument(help="folder of a finished run, or of an export")],
    paths: Annotated[list[Path], typer.Argument(help="images, and folders of images")],
    out: Annotated[Path, typer.Option(help="new folder of the perturbed images")],
    class_name: Annotated[
        str | None, typer.Option("--class", help="class of all images (default: by their folder)")
    ] = None,
    place: Place = None,
    download: Download = False,
) -> None:
    """Perturb images that came later to a protected collection."""
    require_protector(protector, paths, place, download)
    from bigbatch_ue.protection.apply import apply_protector
    from bigbatch_ue.protection.protector import open_protector

    opened = open_protector(protector, place=place, download=download)
    applied = apply_protector(opened, paths, out, class_name=class_name)
    console.print(str(applied), soft_wrap=True)


@app.command()
def export(
    run: RunFolder,
    out: Annotated[Path, typer.Option(help="new folder")],
    place: Place = None,
    download: Download = False,
) -> None:
    """Write what `apply` needs, without images or paths: perturbations, clusters, a card."""
    require_run(run, place, download)
    from bigbatch_ue.protection.protector import PRIVATE, Protector

    protector = Protector.of_run(run, place=place, download=download)
    protector.save(out)
    console.print(f"{out}: {protector}\n{PRIVATE}", soft_wrap=True)
    console.print(f"next: bigbatch-ue apply {out} IMAGES --out PERTURBED", soft_wrap=True)


@app.command()
def evaluate(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN [KEY=VALUE]...",
            help="folder of a finished run (omitted with --protected), and settings, such as "
            "evaluation.countermeasures=all",
        ),
    ] = None,
    protected: Annotated[
        str | None,
        typer.Option(
            help="evaluate these images instead: folder:PATH or npz:PATH; data.name is the clean "
            "original"
        ),
    ] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    target: Annotated[
        str | None, typer.Option(help=f"preset of the target network: {', '.join(TARGETS)}")
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
        require_run(folder, place, download, target, overrides)
        from bigbatch_ue.evaluation.evaluate import evaluate as evaluate_run

        results = evaluate_run(folder, place=place, target=target, overrides=overrides, **options)
    else:
        resolved = revise_evaluation(load_config(preset, config, given), target, overrides)
        require_external(resolved, protected, download)
        from bigbatch_ue.evaluation.evaluate import evaluate_external

        results = evaluate_external(resolved, protected, **options)
    from bigbatch_ue.evaluation.report.terminal import arms_table, verdicts

    if is_main_process():
        console.print(arms_table(results))
        for line in verdicts(results):
            console.print(line, soft_wrap=True)


@app.command()
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
    from bigbatch_ue.sweeps.power import describe_power
    from bigbatch_ue.sweeps.progress import cell_table

    if dry_run:
        planned = sweep_cells(settings, download=download)
        console.print(cell_table(planned))
        console.print(describe_power([cell.config for cell in planned]), soft_wrap=True)
        return
    cells = run_sweep(settings, shard=part, retry=retry, download=download)
    states = Counter(outcome.state if outcome else "claimed" for _, outcome in cells)
    failed = states["failed"]
    console.print(
        f"{counted(len(cells), 'cell')}: {states['finished']} finished, {failed} failed, "
        f"{states['claimed']} claimed by other jobs"
    )
    console.print(f"next: python -m analysis collect {settings.output}", soft_wrap=True)
    if failed:
        raise typer.Exit(1)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="evaluated runs, or evaluation folders")],
    out: Annotated[Path, typer.Option(help="output folder")],
) -> None:
    """Combine several evaluations in one page and one results.json."""
    from bigbatch_ue.evaluation.report.page import write_report

    console.print(f"report: {write_report(folders, out)}", soft_wrap=True)


@app.command()
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
        list[GradientPath] | None,
        typer.Option("--path", help="gradient path; baseline: as in the public code; repeatable"),
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
    folder: Annotated[Path, typer.Option(help="output folder")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(min=0, help="seed of the runs and of the targets")] = 0,
) -> None:
    """Protect real digits at three effective batches, and evaluate the protection."""
    from bigbatch_ue.cli.demo import demo as run_demo

    run_demo(folder, seed=seed)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; `runner.run` describes the exit codes."""
    run(app, arguments)


def _command_line() -> list[str]:
    """Return the command line of this process, with the home directory as `~`."""
    return ["bigbatch-ue", *map(hide_home, sys.argv[1:])]
