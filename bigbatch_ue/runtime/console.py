"""Notes and progress bars on standard error, from the main process only."""

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

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
    console = Console(
        stderr=True, quiet=quiet, soft_wrap=True, markup=False, emoji=False, highlight=False
    )
    console.print(printable(text), style="yellow" if warning else None)


def whole_lines(console: Console) -> Console:
    """Return a console that cuts no line where nobody sees its width: in a pipe or a file."""
    if not console.is_terminal:
        console.width = _WIDEST
    return console


class _Speed(ProgressColumn):
    """The column that says how many `things` are done in a second."""

    def __init__(self, things: str) -> None:
        super().__init__()
        self._things = things

    def render(self, task: Task) -> Text:
        """Return the speed; nothing before it is known."""
        return Text(f"{task.speed:,.0f} {self._things}/s" if task.speed else "")


def progress_bar(*, transient: bool = False, per_second: str | None = None) -> Progress:
    """Make a progress bar with counts and the time left.

    Args:
        transient: whether it vanishes at its end.
        per_second: what it counts; it then shows how many of them are done in a second.
    """
    console = Console(stderr=True)
    hidden = not is_main_process() or (transient and not console.is_terminal)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        *([_Speed(per_second)] if per_second else []),
        console=console,
        transient=transient,
        disable=hidden,
    )
