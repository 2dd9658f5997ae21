"""From run folders to one tidy table; a run that contradicts itself is told of, not averaged in."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import ValidationError
from rich.progress import track
from safetensors import SafetensorError, safe_open

from analysis.table.table import COLUMNS, CRITICAL, CURVE, read_table, write_table
from bigbatch_ue.batching.plan import make_plan
from bigbatch_ue.config.names import ArmName, Countermeasure
from bigbatch_ue.config.schema import Config
from bigbatch_ue.config.sections import DataConfig
from bigbatch_ue.evaluation.arms import RUN_ARMS, Arm, ArmSpec, arm_specs, arm_title, load_arms
from bigbatch_ue.files.formats import digest, parse_json, read_json, read_yaml, write_json
from bigbatch_ue.files.paths import hide_home, require_file
from bigbatch_ue.reporting.statistics import last_quarter
from bigbatch_ue.runs.folder import RunFiles
from bigbatch_ue.runs.result import TrainingResult, read_result
from bigbatch_ue.runtime.errors import UserError

ABOUT = "about.json"
_OF_ANOTHER_KIND = (TypeError, ValueError, KeyError, AttributeError, OverflowError)


@dataclass(frozen=True)
class Problem:
    """A run, or what of it, is not in the table, and why."""

    run: str
    reason: str


@dataclass(frozen=True)
class Collection:
    """What run folders hold.

    Attributes:
        table: a row for each target whose train images depend on the effective batch, with the
            columns of `table.COLUMNS`; of a run that failed, a row that says so.
        problems: what was left out.
        settings: for each data set, the configuration that its runs share.
        commands: that make these runs.
        versions: of the programs that made them.
    """

    table: pd.DataFrame
    problems: tuple[Problem, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    commands: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)


def collect(folders: Sequence[Path]) -> Collection:
    """Read every run below `folders`.

    A run is left out, with the reason, if it is not finished or evaluated, if anything recorded of
    its batch, steps, seed or data disagrees with its configuration, clusters, metrics or
    perturbations, or if a generator's images capped its batch, so that it is not of the size it
    claims. Of runs that are there twice, one is kept.

    Raises:
        UserError: there is no run at all.
    """
    found = sorted({run for folder in folders for run in _runs(folder)}, key=lambda r: r.folder)
    if not found:
        raise UserError(f"{', '.join(map(str, folders))}: no run folders here")
    rows: dict[str, list[dict[str, Any]]] = {}
    problems: list[Problem] = []
    settings: dict[str, Any] = {}
    versions: dict[str, str] = {}
    for run in track(found, "collecting", transient=True):
        try:
            config = _configuration(run)
            rows[run.folder.name] = _rows_of(run, config)
            settings.setdefault(config.data.title, shared_settings(config))
            if (result := _result(run)) is not None:
                versions |= result.versions
        except UserError as error:
            problems.append(Problem(run.folder.name, str(error)))
        except _OF_ANOTHER_KIND as error:
            problems.append(_strange(run.folder.name, error))
    whole, strange = _table(rows)
    problems += strange
    table, twice = _once(whole)
    commands = [_command(folder) for folder in folders]
    return Collection(table, (*problems, *twice), settings, tuple(commands), versions)


def write_collection(collection: Collection, folder: Path) -> None:
    """Write the table and, to `about.json`, all else into `folder`."""
    write_table(collection.table, folder)
    about = {name: getattr(collection, name) for name in ("settings", "commands", "versions")}
    about["problems"] = [vars(problem) for problem in collection.problems]
    write_json(folder / ABOUT, json.loads(hide_home(json.dumps(about))))


def read_collection(folder: Path) -> Collection:
    """What `write_collection` has written; of a table alone, whatever else is empty.

    Raises:
        UserError: no table, or files that are torn or of another kind.
    """
    table = read_table(folder / "table.csv")
    if not (folder / ABOUT).exists():
        return Collection(table, ())
    about = read_json(folder / ABOUT)
    try:
        problems = tuple(Problem(**problem) for problem in about["problems"])
        commands = tuple(about["commands"])
        return Collection(table, problems, about["settings"], commands, about["versions"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / ABOUT}: not from `collect` ({error}); collect anew") from None


def shared_settings(config: Config) -> dict[str, Any]:
    """What decides a run's answer, but for seed, batch, scope, kind of budget and rate rule."""
    content = config.answer()
    content["target"] = config.target.model_dump(mode="json")
    del content["seed"], content["budget"]["kind"], content["optimizer"]["lr_rule"]
    del content["batch"]["effective"], content["batch"]["scope"]
    return content


def _table(rows: Mapping[str, list[dict[str, Any]]]) -> tuple[pd.DataFrame, list[Problem]]:
    """One table of the rows of each run, those left out whose values are of another kind."""
    try:
        return _typed([row for own in rows.values() for row in own]), []
    except _OF_ANOTHER_KIND:
        good, problems = {}, []
        for run, own in rows.items():
            try:
                _typed(own)
            except _OF_ANOTHER_KIND as error:
                problems.append(_strange(run, error))
            else:
                good[run] = own
        return _typed([row for own in good.values() for row in own]), problems


def _typed(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def _strange(run: str, error: Exception) -> Problem:
    return Problem(run, f"records of another kind ({type(error).__name__}: {error})")


def _runs(folder: Path) -> Iterator[RunFiles]:
    """Folders below that hold a run or a cell of a sweep, controls of runs excepted."""
    names = RunFiles(folder)
    for name in (names.config.name, names.cell.name):
        for path in folder.rglob(name):
            if names.controls.name not in path.parent.relative_to(folder).parts:
                yield RunFiles(path.parent)


def _configuration(run: RunFiles) -> Config:
    path = run.config if run.config.exists() else run.cell
    try:
        return Config.model_validate(read_yaml(path))
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"{path.name}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        ) from None


def _rows_of(run: RunFiles, config: Config) -> list[dict[str, Any]]:
    """The table's rows of one run.

    Raises:
        UserError: why it has none.
    """
    outcome = read_json(run.outcome, dict) if run.outcome.exists() else None
    if outcome is not None:
        _agree(outcome["cell"], config.axes, run.outcome.name)
        if outcome["outcome"]["state"] == "failed":
            return [_failed_row(run, config, outcome, case) for case in _wanted(config)]
    result = _result(run)
    if result is None:
        raise UserError("training is not finished")
    sizes = _check(run, config, result)
    if not run.evaluation_results.exists():
        raise UserError("not evaluated: bigbatch-ue evaluate")
    arms = load_arms(run.evaluation_results)
    own = [arm for arm in arms if arm.arm in RUN_ARMS]
    if not own:
        raise UserError("no protected arm was evaluated")
    for arm in own:
        _agree(vars(arm), _facts(config, result), f"evaluation of {arm_title(arm)}")
    return [_row(run, config, result, sizes, arm, arms) for arm in own]


def _check(run: RunFiles, config: Config, result: TrainingResult) -> list[int]:
    """Compare whatever the folder records of the run; images in each cluster are returned.

    Raises:
        UserError: the first contradiction.
    """
    state = read_json(run.state, dict)
    if state.get("answer") != digest([config.answer(), state.get("data")]):
        raise UserError("config.yaml or the data set is not what the run was made with")
    assignment, about = _tensor(run.clusters, "assignment")
    _agree(about, {"answer": state["answer"]}, run.clusters.name)
    sizes = [int(n) for n in np.bincount(assignment, minlength=config.clusters.count)]
    plan = make_plan(config, sizes, result.world_size)
    expected = {
        "dataset": config.data.title,
        "seed": config.seed,
        "scope": config.batch.scope,
        "requested_batch": config.batch.effective,
        "effective_batch": plan.effective,
        "effective_batch_per_generator": plan.per_generator,
        "optimizer_steps": plan.steps,
        "images_seen": plan.images_per_step * plan.steps,
    }
    title = DataConfig(name=result.dataset).title  # its place depends on the user
    _agree({**vars(result), "dataset": title}, expected, run.result.name)
    _, about = _tensor(run.perturbations)
    _agree(about, {"answer": state["answer"], "steps": plan.steps}, run.perturbations.name)
    _agree(_logged(run), {"steps": plan.steps, "images_seen": expected["images_seen"]}, "metrics")
    if set(plan.per_generator) != {config.batch.effective}:
        raise UserError(
            f"not a run at B = {config.batch.effective}: clusters of {min(sizes)} to {max(sizes)} "
            f"images capped it to {min(plan.per_generator)} ... {plan.effective} "
            "(batch.extend=views would not)"
        )
    return sizes


def _agree(found: Mapping[str, Any], expected: Mapping[str, Any], where: str) -> None:
    for key, value in expected.items():
        if found.get(key) != value:
            raise UserError(f"{where} says {key} = {found.get(key)}, the run says {value}")


def _facts(config: Config, result: TrainingResult) -> dict[str, Any]:
    """What the records of an evaluation have of its run."""
    facts = {key: getattr(result, key) for key in ("effective_batch", "optimizer_steps")}
    return {"dataset": config.data.title, "run_seed": config.seed, **facts}


def _result(run: RunFiles) -> TrainingResult | None:
    return read_result(run.result) if run.finished else None


def _logged(run: RunFiles) -> dict[str, int]:
    """Count steps and images in the metrics; each group of ranks has a file of its own."""
    parts = [run.metrics] if run.metrics.exists() else sorted(run.groups.glob("*/metrics.jsonl"))
    try:
        logs = [require_file(part).read_bytes().splitlines() for part in parts or [run.metrics]]
        last = [parse_json(lines[-1]) if lines else {} for lines in logs]
        return {
            "steps": max(map(len, logs)),
            "images_seen": sum(line["images_seen"] for line in last),
        }
    except (UserError, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"metrics.jsonl: not readable ({error})") from None


def _tensor(path: Path, name: str | None = None) -> tuple[Any, dict[str, Any]]:
    """A tensor of a safetensors file, and what is recorded beside it."""
    try:
        with safe_open(require_file(path), framework="np") as file:
            about = parse_json((file.metadata() or {}).get("bigbatch_ue", "{}"))
            if not isinstance(about, dict):
                raise ValueError("its metadata is no mapping")
            return (file.get_tensor(name) if name else None), about
    except (UserError, SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path.name}: not readable ({error})") from None


def _row(
    run: RunFiles,
    config: Config,
    result: TrainingResult,
    sizes: Sequence[int],
    arm: Arm,
    arms: Sequence[Arm],
) -> dict[str, Any]:
    return {
        **_names(run, config, arm_title(arm)),
        "target_seed": arm.seed,
        "optimizer_steps": result.optimizer_steps,
        "learning_rate": result.learning_rate,
        "images_seen": result.images_seen,
        "full_batch": config.full_batch(sum(sizes)),
        "final_accuracy": arm.final_accuracy,
        "peak_accuracy": arm.peak_accuracy,
        "tail_accuracy": arm.tail_mean,
        "oscillation": arm.tail_std,
        "clean_accuracy": _control(ArmName.CLEAN, arm, arms),
        "noise_accuracy": _control(ArmName.RANDOM_NOISE, arm, arms),
        "chance": 1 / len(arm.confusion),
        "test_images": int(np.sum(arm.confusion)),
        "tail_epochs": last_quarter(len(arm.accuracies)),
        "images_per_second": result.images_per_second,
        "peak_memory_mib": result.peak_memory_mib,
        **_critical(result),
        "failed": False,
        "reason": "",
    }


def _critical(result: TrainingResult) -> dict[str, float]:
    """The noise scale of the generators' parameters; null in it is unbounded."""
    try:
        measured = result.noise_scale.get("parameters")
        if measured is None:
            return dict.fromkeys(CRITICAL, math.nan)
        found = [measured[name] for name in ("value", "low", "high")]
        numbers = [math.inf if number is None else float(number) for number in found]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"result.json: noise_scale is not readable ({error!r})") from None
    return dict(zip(CRITICAL, numbers, strict=True))


def _failed_row(
    run: RunFiles, config: Config, outcome: Mapping[str, Any], case: ArmSpec
) -> dict[str, Any]:
    """A row of a run that failed: what it was to be, and why there is no more."""
    result = _result(run)
    unknown = {name: math.nan for name, kind in COLUMNS.items() if kind == "float64"}
    counts = {name: 0 for name, kind in COLUMNS.items() if kind == "int64"}
    return {
        **unknown,
        **counts,
        **_names(run, config, arm_title(case)),
        "target_seed": case.seed,
        "optimizer_steps": result.optimizer_steps if result else 0,
        "full_batch": outcome["cell"].get("full", 0),
        "failed": True,
        "reason": hide_home(outcome["outcome"]["reason"]),
    }


def _names(run: RunFiles, config: Config, arm: str) -> dict[str, Any]:
    return {
        **config.axes,
        "arm": arm,
        "settings": digest(shared_settings(config)),
        "run": run.folder.name,
    }


def _wanted(config: Config) -> list[ArmSpec]:
    return [case for case in arm_specs(config.evaluation, ArmName.UC) if case.arm in RUN_ARMS]


def _control(name: ArmName, arm: Arm, arms: Sequence[Arm]) -> float:
    """Final accuracy of a control with the same seed and labels, and countermeasure if any has."""
    mine = [other for other in arms if (other.arm, other.seed) == (name, arm.seed)]
    mine = [other for other in mine if other.labels == arm.labels]
    for countermeasure in (arm.countermeasure, Countermeasure.NONE):
        for control in mine:
            if control.countermeasure == countermeasure:
                return control.final_accuracy
    return math.nan


def _once(table: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """Rows sorted, each once; and the runs that were there before."""
    what = [*CURVE, "effective_batch", "seed", "target_seed"]
    table = table.sort_values([*what, "run"], kind="stable", ignore_index=True)
    again = table.duplicated(what)
    twice = [
        Problem(run, f"the same run is there twice ({arm})")
        for run, arm in zip(table["run"][again], table["arm"][again], strict=True)
    ]
    return table[~again].reset_index(drop=True), twice


def _command(folder: Path) -> str:
    sweep = folder / "sweep.yaml"
    if sweep.exists():
        return f"bigbatch-ue sweep --config {sweep.as_posix()}"
    return f"bigbatch-ue train --config {folder.as_posix()}/RUN/config.yaml"
