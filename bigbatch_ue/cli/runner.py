"""Running a command line: an error becomes one line on standard error, and an exit code."""

import atexit
import gc
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from io import TextIOWrapper
from typing import NoReturn

import typer
import typer.exceptions

from bigbatch_ue.runtime.errors import EXIT_LOST_RANK, UserError, is_lost_rank, user_message
from bigbatch_ue.runtime.progress import quiet_libraries
from bigbatch_ue.runtime.ranks import is_main_process
from bigbatch_ue.runtime.signals import EXIT_INTERRUPTED, Interrupted, raising_on_signals

_EXIT_CTRL_C = 130


def run(commands: typer.Typer, arguments: Sequence[str] | None = None) -> None:
    """Run one of `commands`; an error ends the process with one line and an exit code.

    The exit codes are 2 for an error that the user can fix, 75 for a stop by a signal or the time
    limit, without any loss, 76 if another rank was lost, and 130 for Ctrl-C.

    Args:
        commands: a command line.
        arguments: name of the command and its arguments; by default those of the process.
    """
    _silence_dependencies()
    quiet_libraries()
    atexit.register(gc.freeze)  # else the exit looks a second long for garbage in torch
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with raising_on_signals():
            code = commands(
                list(sys.argv[1:] if arguments is None else arguments), standalone_mode=False
            )
        if code == _EXIT_CTRL_C:  # Typer returns it instead of raising KeyboardInterrupt
            raise KeyboardInterrupt
        if code:
            sys.exit(code)
    except Interrupted as stop:
        _fail(str(stop), code=EXIT_INTERRUPTED)
    except (UserError, OSError, RuntimeError, MemoryError) as error:
        message = user_message(error)
        if message is None and is_lost_rank(error):
            _print_error("lost another rank; add --resume to continue from the last checkpoint")
            os._exit(EXIT_LOST_RANK)  # in an orderly exit, threads still waiting for the rank abort
        if message is None:
            raise
        _fail(message)
    except typer.exceptions.TyperException as error:
        _fail(f"{error.format_message()} (see --help)")
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted; all finished results are kept", code=_EXIT_CTRL_C)


def _fail(message: str, code: int = 2) -> NoReturn:
    _print_error(message)
    sys.exit(code)


def _print_error(message: str) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)


def _silence_dependencies() -> None:
    """Keep messages that concern only developers of the dependencies off the user's terminal."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    if not is_main_process():
        warnings.simplefilter("ignore")
    for name in ("accelerate", "torch.utils.cpp_extension"):
        logging.getLogger(name).setLevel(logging.ERROR)
