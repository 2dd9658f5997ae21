"""The progress bar of long work: on standard error, on the main process alone."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bigbatch_ue.runtime.ranks import is_main_process


def progress_bar(*, transient: bool = False) -> Progress:
    """A bar with counts and the time left; a `transient` one is gone when it is full."""
    console = Console(stderr=True)
    hidden = not is_main_process() or (transient and not console.is_terminal)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=transient,
        disable=hidden,
    )
