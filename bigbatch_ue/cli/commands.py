"""The command line of `bigbatch-ue`: one command for each stage."""

from collections.abc import Sequence

import typer

from bigbatch_ue.cli.catalogue import datasets, doctor, presets
from bigbatch_ue.cli.launching import launch, submit
from bigbatch_ue.cli.measuring import bench, demo, evaluate, report, sweep
from bigbatch_ue.cli.runner import run
from bigbatch_ue.cli.stages import apply, export, plan, protect, train

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Make images useless for unauthorised training: unlearnable clusters at any batch size.",
)
_STAGES = (plan, train, protect, apply, export, evaluate, sweep, report)
_STARTED = {"ignore_unknown_options": True}
"""Of commands that start another command: its options are not theirs, also without `--`."""
for command in (doctor, datasets, presets, *_STAGES, launch, submit, bench, demo):
    options = _STARTED if command in (launch, submit) else {}
    app.command(context_settings=options)(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; `runner.run` describes the exit codes."""
    run(app, arguments)
