"""The options that several commands share, and the console that they print on."""

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bigbatch_ue.cli.completion import complete_preset, complete_setting
from bigbatch_ue.config.names import PARITY, PRESETS
from bigbatch_ue.runtime.console import whole_lines

console = whole_lines(Console(markup=False))

_PRESETS = (
    f"one of: {', '.join(name for name in PRESETS if not name.endswith(PARITY))}; a data set's "
    f"name with {PARITY} has the settings of the study; `bigbatch-ue presets NAME` shows them"
)
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="settings, such as batch.effective=4096 seed=1", autocompletion=complete_setting
    ),
]
Preset = Annotated[str | None, typer.Option(help=_PRESETS, autocompletion=complete_preset)]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file of settings")]
Download = Annotated[bool, typer.Option("--download", help="allow the data set to be downloaded")]
RunFolder = Annotated[Path, typer.Argument(help="folder of a finished run")]
Place = Annotated[
    str | None,
    typer.Option("--data", help="where the run's images are now, if moved, such as folder:PATH"),
]


def suggest(*words: str | Path) -> None:
    """Print a command that comes next, ready to be pasted into a shell."""
    console.print(f"next: {shlex.join(map(str, words))}", soft_wrap=True)
