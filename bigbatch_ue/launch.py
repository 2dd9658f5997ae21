r"""`accelerate launch` for jobs that may be interrupted: the same arguments, three differences.

    python -m bigbatch_ue.launch --config_file launchers/accelerate/ddp.yaml \
        -m bigbatch_ue train --preset digits

SIGTERM and SIGUSR1 reach every rank, which then writes a checkpoint; the exit code is that of the
rank that ended first (128 + n if signal n killed it); and that rank is named. Accelerate's own
launcher ends with 1 whatever happened, and kills ranks that take over 30 seconds to end.
"""

import logging
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

import psutil
from accelerate.commands.launch import launch_command, launch_command_parser
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from bigbatch_ue.errors import LOST_PEER
from bigbatch_ue.interrupt import EXIT_CODE, SIGNALS, answering

_CONSEQUENCES = (EXIT_CODE, LOST_PEER, -signal.SIGTERM)
"""How ranks end when another one did; the launcher sends SIGTERM to the rest."""


def launch(arguments: Sequence[str]) -> int:
    """Start the ranks that `arguments`, those of `accelerate launch`, ask for.

    Returns:
        The exit code: 0, `interrupt.EXIT_CODE` if the ranks were stopped in good order, else that
        of the rank that failed first.
    """
    options = launch_command_parser().parse_args(list(arguments))
    options.signals_to_handle = "SIGINT,SIGHUP,SIGQUIT"  # the rest is passed on here
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    told: list[signal.Signals] = []

    def pass_on(number: signal.Signals) -> None:
        told.append(number)
        for rank in psutil.Process().children():
            with suppress(psutil.NoSuchProcess):
                rank.send_signal(number)

    with answering(pass_on):
        try:
            launch_command(options)
        except ChildFailedError as error:
            rank, failure = min(error.failures.items(), key=lambda item: _by_cause(*item))
            code = failure.exitcode
        except subprocess.CalledProcessError as error:
            rank, code = 0, error.returncode
        else:
            return 0
    if code == EXIT_CODE or (told and -code in SIGNALS):
        return EXIT_CODE
    print(f"error: rank {rank} {_how(code)}; the other ranks were ended", file=sys.stderr)
    return 128 - code if code < 0 else code


def _by_cause(rank: int, failure: ProcessFailure) -> tuple[int, int, int]:
    """Order of failures: first what is no consequence of another."""
    code = failure.exitcode
    late = _CONSEQUENCES.index(code) + 1 if code in _CONSEQUENCES else 0
    return late, failure.timestamp, rank


def _how(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    memory = " (out of memory?)" if code == -signal.SIGKILL else ""
    return f"was ended by {signal.Signals(-code).name}{memory}"


if __name__ == "__main__":
    sys.exit(launch(sys.argv[1:]))
