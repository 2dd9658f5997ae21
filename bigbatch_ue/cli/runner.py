"""Run a command line: errors become one line on stderr and an exit code."""

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

import typer
import typer.exceptions

from bigbatch_ue.runtime.errors import EXIT_LOST_RANK, UserError, is_lost_rank, user_message
from bigbatch_ue.runtime.ranks import is_main_process
from bigbatch_ue.runtime.signals import EXIT_INTERRUPTED, Interrupted, raising_on_signals


def run(commands: typer.Typer, arguments: Sequence[str] | None = None) -> None:
    """Run one of `commands`; an error ends it with one line on stderr and an exit code.

    2: an error that the user can fix; 75: stopped by a signal or the time limit, with nothing lost;
    76: another rank was lost; 130: Ctrl-C.

    Args:
        commands: a command line.
        arguments: name of the command and its arguments; by default the process's own.
    """
    _quiet()
    try:
        with raising_on_signals():
            code = commands(
                list(sys.argv[1:] if arguments is None else arguments), standalone_mode=False
            )
        if code:
            sys.exit(code)
    except Interrupted as stop:
        _stop(str(stop), code=EXIT_INTERRUPTED)
    except (UserError, OSError, RuntimeError, MemoryError) as error:
        message = user_message(error)
        if message is None and is_lost_rank(error):
            _say("lost another rank; add --resume to go on from the last checkpoint")
            os._exit(EXIT_LOST_RANK)  # threads that still wait for it abort an orderly end
        if message is None:
            raise
        _stop(message)
    except typer.exceptions.TyperException as error:
        _stop(f"{error.format_message()} (see --help)")
    except (KeyboardInterrupt, typer.Abort):
        _stop("interrupted; what was finished is kept", code=130)


def _stop(message: str, code: int = 2) -> NoReturn:
    _say(message)
    sys.exit(code)


def _say(message: str) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)


def _quiet() -> None:
    """Keep what dependencies say about themselves out of the user's terminal."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    if not is_main_process():
        warnings.simplefilter("ignore")
    logging.getLogger("accelerate").setLevel(logging.ERROR)
