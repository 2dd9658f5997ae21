"""The run folders below a place: which there are, and what they are called."""

import math
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from pydantic import ValidationError

from bigbatch_ue.config.schema import Config
from bigbatch_ue.files.formats import first_problem, read_json
from bigbatch_ue.files.paths import short_names
from bigbatch_ue.files.yaml_files import read_yaml
from bigbatch_ue.runs.folder import RunFiles
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.sweeps.folder import PILOT, SPECIFICATION
from bigbatch_ue.sweeps.strength import in_255, read_strengths


def runs_below(folder: Path) -> Iterator[RunFiles]:
    """Yield the runs and the sweep cells below a folder, without control runs and a pilot's."""
    names = RunFiles(folder)
    others = {names.controls.name, PILOT}
    for name in (names.config.name, names.cell.name):
        for path in folder.rglob(name):
            run = RunFiles(path.parent)
            may_be_other = not others.isdisjoint(run.folder.relative_to(folder).parts)
            if not (may_be_other and _is_other(run)):
                yield run


def _is_other(run: RunFiles) -> bool:
    """Return whether a run is a control of another one, or a cell of a sweep's pilot."""
    own, home = run.folder.absolute(), run.home
    is_control = own.parent.name == run.controls.name and home != own
    return is_control or (home.name == PILOT and (home.parent / SPECIFICATION).exists())


def read_configuration(run: RunFiles) -> Config:
    """Read the configuration of a run, or of a cell that has not been run.

    Raises:
        UserError: it is not valid.
    """
    path = run.config if run.config.exists() else run.cell
    try:
        return Config.model_validate(read_yaml(path))
    except ValidationError as error:
        raise UserError(f"{path.name}: {first_problem(error)}") from None


def data_names(configs: Mapping[RunFiles, Config]) -> dict[RunFiles, str]:
    """Name the data set of each run; different images in different places get different names."""
    names, places = {}, {}
    first_place: dict[str, str] = {}
    for run, config in configs.items():
        names[run] = config.data.shown_as
        if config.data.title is None:
            state = read_json(run.state, dict) if run.state.exists() else {}
            content = str(state.get("data", config.data.name))
            places[run] = first_place.setdefault(content, config.data.name)
    for name in set(names.values()):
        alike = [run for run in places if names[run] == name]
        names |= zip(alike, short_names([places[run] for run in alike]), strict=True)
    return names


def strength_sentences(
    configs: Mapping[RunFiles, Config], names: Mapping[RunFiles, str]
) -> list[str]:
    """Say the strengths of each data set, and how they were chosen."""
    read = cache(read_strengths)
    found = set()
    for run, config in configs.items():
        name, eps = names[run], config.generator.eps
        own = [
            each.model_copy(update={"dataset": name})
            for each in read(run.home)
            if each.dataset == config.data.shown_as and math.isclose(each.eps, eps)
        ]
        said = [str(each) for each in own] or [f"{name}: eps {in_255(eps)}, as the settings say"]
        found |= {(name, eps, sentence) for sentence in said}
    return [sentence for *_, sentence in sorted(found)]


def repeating_command(folder: Path) -> str:
    """Return the command that repeats the runs of a folder."""
    sweep = folder / SPECIFICATION
    if sweep.exists():
        return f"bigbatch-ue sweep --config {sweep.as_posix()}"
    return f"bigbatch-ue train --config {folder.as_posix()}/RUN/config.yaml"
