"""Notes on standard error, from the main process only."""

from typing import Any

from rich.console import Console

from bigbatch_ue.runtime.errors import printable
from bigbatch_ue.runtime.ranks import is_main_process

_WIDEST = 10_000


def note(text: str, *, warning: bool = False, any_process: bool = False) -> None:
    """Print `text` on standard error.

    Args:
        text: one or more lines; control characters, as in names of files, are escaped.
        warning: print it in yellow on a terminal.
        any_process: print it whichever process this is, not only on the main process.
    """
    quiet = not (any_process or is_main_process())
    console = message_console(
        quiet=quiet, soft_wrap=True, markup=False, emoji=False, highlight=False
    )
    console.print(printable(text), style="yellow" if warning else None)


def message_console(**options: Any) -> Console:
    """Return a console on standard error; in a notebook, on its output, as plain text.

    Jupyter's kernel sets FORCE_COLOR, and rich would need widgets there to redraw a line.
    """
    if Console().is_jupyter:
        return Console(force_jupyter=False, force_terminal=False, **options)
    return Console(stderr=True, **options)


def whole_lines(console: Console) -> Console:
    """Return a console that cuts no line where nobody sees its width: in a pipe or a file."""
    if not console.is_terminal:
        console.width = _WIDEST
    return console
