r"""`accelerate launch` for jobs that may be interrupted, with the same arguments.

    python -m bigbatch_ue.launch --config_file launchers/accelerate/ddp.yaml \
        -m bigbatch_ue train --preset digits

There are four differences. SIGTERM and SIGUSR1 reach every rank, which then writes a checkpoint.
The exit code is that of the rank that ended first, or 128 + n if signal n killed it. That rank is
named. With `--dry-run` before them, the arguments are only checked, and the command is printed.
Accelerate's own launcher always ends with 1 after a failure, and kills ranks that take more than
30 seconds to end.
"""

import logging
import shlex
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

import psutil
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command, launch_command_parser
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from bigbatch_ue.reporting.words import counted
from bigbatch_ue.runtime.errors import EXIT_LOST_RANK, UserError, user_message
from bigbatch_ue.runtime.signals import (
    EXIT_INTERRUPTED,
    SIGNALS,
    describe_exit,
    handling_signals,
)

_CONSEQUENCES = (EXIT_INTERRUPTED, EXIT_LOST_RANK, -signal.SIGTERM)
"""Exit codes of ranks that end because another one ended; the launcher sends them SIGTERM."""


def main(arguments: Sequence[str]) -> int:
    """Launch the ranks, or print what would be launched; return the exit code."""
    try:
        if arguments[:1] == ["--dry-run"]:
            print(describe(arguments[1:]))
            return 0
        return launch_ranks(arguments)
    except UserError as error:
        print(f"error: {user_message(error)}", file=sys.stderr)
        return 2


def describe(arguments: Sequence[str]) -> str:
    """Return the number of ranks that `arguments` start, as a shell comment, and their command.

    Raises:
        UserError: an argument or the configuration file is wrong.
    """
    options = _parse(arguments)
    ranks, machines = _ranks_and_machines(options)
    python = [] if options.no_python else [sys.executable, *(["-m"] if options.module else [])]
    command = shlex.join([*python, options.training_script, *options.training_script_args])
    file = options.config_file or "Accelerate's own configuration"
    where = f"{counted(ranks, 'rank')} on {counted(machines, 'machine')}"
    return f"# {file}: {where}, each of which runs\n{command}"


def launch_ranks(arguments: Sequence[str]) -> int:
    """Start the ranks that the `arguments` of `accelerate launch` request, and wait for them.

    Returns:
        The exit code: 0; `EXIT_INTERRUPTED` after an orderly stop; otherwise that of the rank that
        failed first.

    Raises:
        UserError: an argument or the configuration file is wrong.
    """
    options = _parse(arguments)
    if options.config_file:
        _ranks_and_machines(options)
    options.signals_to_handle = "SIGINT,SIGHUP,SIGQUIT"  # `pass_on` handles the others
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    passed_on: list[signal.Signals] = []

    def pass_on(number: signal.Signals) -> None:
        passed_on.append(number)
        for rank in psutil.Process().children():
            with suppress(psutil.NoSuchProcess):
                rank.send_signal(number)

    with handling_signals(pass_on):
        try:
            launch_command(options)
        except ChildFailedError as error:
            rank, failure = min(error.failures.items(), key=lambda item: _root_causes_first(*item))
            code = failure.exitcode
        except subprocess.CalledProcessError as error:
            rank, code = 0, error.returncode
        except ValueError as error:
            raise UserError(str(error)) from error
        else:
            return 0
    if code == EXIT_INTERRUPTED or (passed_on and -code in SIGNALS):
        return EXIT_INTERRUPTED
    print(f"error: rank {rank} {describe_exit(code)}; the other ranks were ended", file=sys.stderr)
    return 128 - code if code < 0 else code


def _parse(arguments: Sequence[str]) -> Namespace:
    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}; see `accelerate launch --help`")

    parser = launch_command_parser()
    parser.error = refuse
    options: Namespace = parser.parse_args(list(arguments))
    return options


def _ranks_and_machines(options: Namespace) -> tuple[int, int]:
    """Read the numbers of ranks and of machines from `options` and their configuration file."""
    file = options.config_file
    try:
        config = load_config_from_file(file)
    except OSError as error:
        raise UserError(user_message(error) or f"{file}: no such file") from error
    except (ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise UserError(f"{file}: not a configuration of Accelerate ({error})") from error
    ranks, machines = (
        given if given is not None else configured
        for given, configured in (
            (options.num_processes, config.num_processes),
            (options.num_machines, config.num_machines),
        )
    )
    if min(ranks, machines) < 1 or ranks % machines:
        raise UserError(
            f"num_processes={ranks}: expected the number of ranks on all machines together, "
            f"a multiple of num_machines={machines}"
        )
    return ranks, machines


def _root_causes_first(rank: int, failure: ProcessFailure) -> tuple[int, int, int]:
    """Return the sort key of a failure: root causes first, then by time."""
    code = failure.exitcode
    late = _CONSEQUENCES.index(code) + 1 if code in _CONSEQUENCES else 0
    return late, failure.timestamp, rank
