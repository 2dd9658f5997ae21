"""The commands that make perturbations and put them onto images."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from bigbatch_ue.benchmark.machines import MachineName
from bigbatch_ue.cli.checks import (
    require_images,
    require_own_images,
    require_protector,
    require_run,
    require_training,
)
from bigbatch_ue.cli.options import (
    ConfigFile,
    Download,
    Overrides,
    Place,
    Preset,
    RunFolder,
    console,
    suggest,
)
from bigbatch_ue.cli.plan_site import choose_site, require_estimate
from bigbatch_ue.config.load import load_config
from bigbatch_ue.runtime.ranks import EngineName, is_main_process, world_size


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
    nodes: Annotated[
        int | None, typer.Option(min=1, help="estimate a step on so many nodes of --machine")
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(min=1, help="ranks of a node (default: all GPUs it has)")
    ] = None,
    machine: Annotated[
        MachineName | None,
        typer.Option(help="machine of --nodes (default: the only one with that many --gpus)"),
    ] = None,
    engine: Annotated[
        EngineName | None,
        typer.Option(help="engine to plan for (default: single, and ddp with --nodes)"),
    ] = None,
    agreement: Annotated[
        bool,
        typer.Option(
            "--agreement", help="group the images, and say how much the clusters tell of the labels"
        ),
    ] = False,
    download: Download = False,
) -> None:
    """Show the batch plan and the memory it needs, and its time on many nodes; train nothing."""
    resolved = load_config(preset, config, overrides or ())
    site = choose_site(nodes, gpus, machine, ranks)
    engine = engine or (EngineName.DDP if site else EngineName.SINGLE)
    if site:
        require_estimate(resolved, site, engine)
    if images is None:
        require_own_images(resolved, preset)
        require_images(resolved, download)
    from bigbatch_ue.cli.plan_table import plan_table

    number = site.ranks if site else ranks or world_size()
    console.print(plan_table(resolved, number, images, engine, download, agreement, site))


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
    require_own_images(resolved, preset)
    require_training(resolved, download)
    from bigbatch_ue.training.train import train as run_training

    run = run_training(resolved, resume=resume, download=download, time_limit=time_limit)
    if is_main_process():
        console.print(f"perturbations: {run.perturbations}", soft_wrap=True)
        suggest("bigbatch-ue", "protect", run.folder)


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

    report = write_protected(run, place=place, out=out, form=form, at=at, download=download)
    console.print(str(report), soft_wrap=True)
    if report.form != "png":
        console.print("all but its train images are unprotected copies; do not publish them")
    suggest("bigbatch-ue", "evaluate", run, *(["--data", place] if place else []))


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
    console.print(
        f"to keep it on the Hugging Face hub: hf upload USER/NAME {out} --private", soft_wrap=True
    )
    suggest("bigbatch-ue", "apply", out, "IMAGES", "--out", "PERTURBED")
