"""The commands that list what there is: data sets, presets, and what the machine has."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from bigbatch_ue.cli.completion import complete_shown_preset
from bigbatch_ue.cli.options import ConfigFile, Overrides, Preset, console
from bigbatch_ue.config.bundled import preset_as_yaml, purposes
from bigbatch_ue.config.load import load_config
from bigbatch_ue.reporting.words import counted
from bigbatch_ue.runtime.errors import UserError


def datasets(
    root: Annotated[Path, typer.Option(help="folder of the data files (data.root)")] = Path("data"),
) -> None:
    """List the data sets and the places of their files."""
    from bigbatch_ue.data.datasets import catalogue

    table = Table("name", "content", "sizes", Column("files", overflow="fold"), "present")
    for entry in catalogue(root):
        present = "yours" if ":" in entry.name else "yes" if entry.present else "no"
        table.add_row(entry.name, entry.what, entry.sizes, entry.place, present)
    console.print(table)
    console.print("MedMNIST files: <name>.npz at 28 pixels, <name>_<size>.npz at larger sizes.")


def presets(
    name: Annotated[
        str | None,
        typer.Argument(
            help="preset whose settings to show, as YAML for --config",
            autocompletion=complete_shown_preset,
        ),
    ] = None,
) -> None:
    """List the presets and what they are for, or show the settings of one."""
    if name is not None:
        print(preset_as_yaml(name), end="")
        return
    for purpose, names in purposes().items():
        console.print(f"{', '.join(names)}\n    {purpose}")
    console.print("next: bigbatch-ue presets NAME")


def doctor(overrides: Overrides = None, preset: Preset = None, config: ConfigFile = None) -> None:
    """Check packages, devices, compiler and folders, and say what to do about them."""
    resolved = load_config(preset, config, overrides or ())
    from bigbatch_ue.cli.doctor import examine, findings_table

    findings = examine(resolved)
    console.print(findings_table(findings))
    broken = [finding.what for finding in findings if finding.broken]
    if broken:
        raise UserError(
            f"doctor: {counted(len(broken), 'problem')} ({', '.join(broken)}); see the table"
        )
