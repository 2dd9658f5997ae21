"""The progress bar of long work: on standard error, on the main process alone."""

import os

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

GROUP = "BIGBATCH_UE_GROUP"
"""Environment variable: this rank's group, where groups of ranks own clusters."""


def is_main_process() -> bool:
    """Whether this is rank 0, or there are no ranks; known before any engine is started."""
    return os.environ.get("RANK", "0") == os.environ.get(GROUP, "0") == "0"


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
