"""The commands that start ranks, and jobs of a cluster."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from typer.main import get_group

from bigbatch_ue.cli.checks import require_own_images, require_sweep, require_training
from bigbatch_ue.cli.measuring import bench, evaluate, sweep
from bigbatch_ue.cli.options import console
from bigbatch_ue.cli.stages import train
from bigbatch_ue.config.load import load_config
from bigbatch_ue.launching.engines import LaunchedEngine, Machines, gpus, launch_arguments
from bigbatch_ue.launching.jobs import Job, Scheduler, parse_minutes, submit_job
from bigbatch_ue.runtime.errors import UserError

_LAUNCHED = (train, evaluate, bench)
_SUBMITTED = (train, sweep, evaluate, bench)

Command = Annotated[
    list[str],
    typer.Argument(metavar="-- COMMAND...", help="command of bigbatch-ue, such as: train seed=1"),
]


def launch(
    engine: Annotated[LaunchedEngine, typer.Argument(help="engine to run the ranks on")],
    command: Command,
    ranks: Annotated[
        int | None,
        typer.Option(
            min=1, help="ranks on all machines together (default: one per GPU of each machine)"
        ),
    ] = None,
    machines: Annotated[int, typer.Option(min=1, help="number of machines")] = 1,
    machine_rank: Annotated[
        int | None,
        typer.Option(
            min=0, help="index of this machine, from 0 (default: as srun, jsrun or Open MPI say)"
        ),
    ] = None,
    main_host: Annotated[
        str | None, typer.Option(help="name or address of machine 0, as the others reach it")
    ] = None,
    main_port: Annotated[
        int, typer.Option(min=1, max=65535, help="free port of machine 0")
    ] = 29500,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print what each rank would run, and start nothing")
    ] = False,
) -> None:
    """Start a command on several ranks, one per GPU, on one machine or several.

    On several machines, run the same command on each of them.
    """
    _require_command("launch", command, _LAUNCHED)
    place = Machines(machines, machine_rank, main_host, main_port)
    if ranks is None:
        ranks = _ranks_of(engine, machines)
    arguments = launch_arguments(engine, ranks, place, ["bigbatch_ue", *command])
    from bigbatch_ue.launching.ranks import describe, launch_ranks

    if dry_run:
        print(describe(arguments))
    elif code := launch_ranks(arguments):
        raise typer.Exit(code)


def submit(
    scheduler: Annotated[Scheduler, typer.Argument(help="scheduler of the cluster")],
    command: Command,
    nodes: Annotated[
        int, typer.Option(min=1, help="nodes of a training, or jobs that share a sweep")
    ],
    time: Annotated[str, typer.Option(help="time limit of a job: H:MM, or minutes")],
    engine: Annotated[LaunchedEngine, typer.Option(help="engine of a training")] = "ddp",
    gpus: Annotated[
        int, typer.Option(min=0, help="GPUs per node, each of which is a rank; 0: CPU ranks")
    ] = 1,
    ranks: Annotated[
        int | None, typer.Option(min=1, help="ranks per node (default: one per GPU, at least one)")
    ] = None,
    cores: Annotated[int, typer.Option(min=1, help="CPU cores per node")] = 8,
    at_most: Annotated[
        int | None, typer.Option(min=1, help="jobs of a sweep that run at the same time")
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--option", help="further option of the scheduler; repeatable"),
    ] = None,
    setup: Annotated[
        list[str] | None,
        typer.Option(help="line of bash to run first, such as 'module load cuda'; repeatable"),
    ] = None,
    folder: Annotated[Path, typer.Option(help="folder of the written scripts")] = Path("runs/jobs"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the script, and submit nothing")
    ] = False,
) -> None:
    """Write and submit the script of a job that continues until it is finished.

    A training runs on all nodes together. A sweep or an evaluation runs as an array of jobs, one
    for each node, which share its work. This folder, the program, the data and the runs must be on
    a file system that all nodes share.
    """
    _require_command("submit", command, _SUBMITTED)
    job = Job(
        scheduler=scheduler,
        command=command,
        nodes=nodes,
        minutes=parse_minutes(time),
        engine=engine,
        gpus=gpus,
        ranks=ranks or max(gpus, 1),
        cores=cores,
        at_most=at_most,
        options=options or (),
        setup=setup or (),
    )
    if dry_run:
        print(job.script(), end="")
    else:
        console.print(submit_job(job, folder), soft_wrap=True)


def _ranks_of(engine: LaunchedEngine, machines: int) -> int:
    """Return the default number of ranks: one for each GPU of each machine."""
    if engine == "single":
        return 1
    if not (count := gpus()):
        raise UserError("--ranks: missing; this machine has no GPU, so set the number of ranks")
    return machines * count


def _require_command(
    where: str, command: Sequence[str], allowed: Sequence[Callable[..., None]]
) -> None:
    """Check a command before ranks are started or a job waits in a queue.

    Raises:
        UserError: another command than the `allowed` ones, a bad setting, or missing images.
    """
    name, *arguments = command
    names = [each.__name__ for each in allowed]
    if name not in names:
        raise UserError(f"{where}: expected {', '.join(names)} after --, not {name}")
    known = typer.Typer()
    for each in allowed:
        known.command()(each)
    given = get_group(known).commands[name].make_context(name, arguments).params
    if name == "sweep":
        from bigbatch_ue.sweeps.spec import load_sweep

        require_sweep(load_sweep(given["config"], given["overrides"] or ()), given["download"])
    elif name != "evaluate":  # its run may not be finished yet
        config = load_config(given["preset"], given["config"], given["overrides"] or ())
        if name == "train":
            require_own_images(config, given["preset"])
            require_training(config, given["download"])
