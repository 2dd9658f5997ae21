"""From run folders to one tidy table; runs with inconsistent records are reported and left out."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.polynomial import Polynomial

from analysis.table.columns import COLUMNS
from analysis.table.consistency import check_arm, check_run, require_values
from analysis.table.run_folders import (
    data_names,
    read_configuration,
    repeating_command,
    runs_below,
    strength_sentences,
)
from analysis.table.table import (
    CRITICAL_COLUMNS,
    TARGET_COLUMNS,
    read_table,
    write_table,
)
from bigbatch_ue.config.names import ArmName, Countermeasure
from bigbatch_ue.config.schema import Config
from bigbatch_ue.evaluation.arms import RUN_ARMS, Arm, ArmSpec, arm_specs, arm_title, load_arms
from bigbatch_ue.files.formats import digest, read_json, write_json
from bigbatch_ue.files.paths import hide_home
from bigbatch_ue.reporting.statistics import last_quarter
from bigbatch_ue.runs.folder import RunFiles
from bigbatch_ue.runs.result import TrainingResult, read_result
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.progress import progress

ABOUT = "about.json"
_MALFORMED = (TypeError, ValueError, KeyError, AttributeError, OverflowError)
"""Errors that records of an unexpected structure cause."""


@dataclass(frozen=True)
class Problem:
    """A run, or a part of it, that is not in the table.

    Attributes:
        run: name of its folder.
        reason: why it was left out.
    """

    run: str
    reason: str


@dataclass(frozen=True)
class Collection:
    """The table of some runs, and how they were made.

    Attributes:
        table: a row for each target whose training images depend on the effective batch, with the
            columns of `columns.COLUMNS`. A run that failed has rows that say so.
        problems: runs that were left out.
        settings: settings that the runs share, by data set.
        commands: commands that repeat the runs and the table.
        versions: versions of the programs that made the runs.
        strengths: sentences on the bound of the perturbations, for each data set.
    """

    table: pd.DataFrame
    problems: tuple[Problem, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    commands: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    strengths: tuple[str, ...] = ()


def collect(folders: Sequence[Path]) -> Collection:
    """Read every run below `folders`.

    A run is left out, with the reason, in these cases: it is not finished or not evaluated; a
    record of its batch, steps, seed or data disagrees with its configuration, clusters, metrics or
    perturbations; or its clusters capped the batch, so that the run does not have the batch that it
    claims. Of duplicate runs, one is kept.

    Raises:
        UserError: there is no run at all.
    """
    runs = sorted({run for folder in folders for run in runs_below(folder)}, key=lambda r: r.folder)
    if not runs:
        raise UserError(
            f"{', '.join(map(str, folders))}: no run folders here; name those that `train` or "
            "`sweep` wrote, of a sweep whose pilot has ended"
        )
    rows: dict[RunFiles, list[dict[str, Any]]] = {}
    problems: list[Problem] = []
    configs: dict[RunFiles, Config] = {}
    versions: dict[str, str] = {}
    with progress("collecting", "runs", len(runs)) as stage:
        for run in stage.track(runs):
            try:
                config = read_configuration(run)
                rows[run] = _run_rows(run, config)
                configs[run] = config
                if (result := _result(run)) is not None:
                    versions |= result.versions
            except UserError as error:
                problems.append(Problem(run.folder.name, str(error)))
            except _MALFORMED as error:
                problems.append(_malformed(run, error))
    names = data_names(configs)
    for run, own in rows.items():
        for row in own:
            row["dataset"] = names[run]
    settings = {names[run]: shared_settings(config) for run, config in reversed(configs.items())}
    table, malformed = _table(rows)
    table, duplicates = _without_duplicates(table)
    commands = tuple(map(repeating_command, folders))
    strengths = tuple(strength_sentences(configs, names))
    problems += [*malformed, *duplicates]
    return Collection(table, tuple(problems), settings, commands, versions, strengths)


def write_collection(collection: Collection, folder: Path) -> None:
    """Write the table, and everything else to `about.json`, into `folder`."""
    write_table(collection.table, folder)
    names = ("settings", "commands", "versions", "strengths")
    about = {name: getattr(collection, name) for name in names}
    about["problems"] = [vars(problem) for problem in collection.problems]
    write_json(folder / ABOUT, json.loads(hide_home(json.dumps(about, ensure_ascii=False))))


def read_collection(folder: Path) -> Collection:
    """Read the files of `write_collection`; a table alone gives an otherwise empty collection.

    Raises:
        UserError: there is no table, or a file is damaged.
    """
    table = read_table(folder / "table.csv")
    if not (folder / ABOUT).exists():
        return Collection(table, ())
    about = read_json(folder / ABOUT)
    try:
        problems = tuple(Problem(**problem) for problem in about["problems"])
        commands = tuple(about["commands"])
        strengths = tuple(about.get("strengths", ()))
        return Collection(
            table, problems, about["settings"], commands, about["versions"], strengths
        )
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{folder / ABOUT}: not written by `collect` ({error}); run `collect` again"
        ) from None


def shared_settings(config: Config) -> dict[str, Any]:
    """Return all settings that decide a result, except the seed and those that a sweep varies.

    A schedule of batches is among them, and so is `batch.effective=auto`: such runs are not those
    of a constant batch.
    """
    content = config.answer()
    content["target"] = config.target.answer()
    del content["seed"], content["budget"]["kind"], content["optimizer"]["lr_rule"]
    del content["batch"]["scope"]
    if content["batch"]["effective"] != "auto":
        del content["batch"]["effective"]
    return content


# -- rows ----------------------------------------------------------------------------------------


def _result(run: RunFiles) -> TrainingResult | None:
    return read_result(run.result) if run.finished else None


def _run_rows(run: RunFiles, config: Config) -> list[dict[str, Any]]:
    """Return the table rows of one run.

    Raises:
        UserError: the run is unfinished, not evaluated or inconsistent.
    """
    outcome = read_json(run.outcome, dict) if run.outcome.exists() else None
    if outcome is not None:
        require_values(outcome["cell"], config.axes, run.outcome.name)
        if outcome["outcome"]["state"] == "failed":
            return [
                _failed_row(run, config, outcome, spec)
                for spec in arm_specs(config.evaluation, ArmName.UC)
                if spec.arm in RUN_ARMS
            ]
    result = _result(run)
    if result is None:
        raise UserError("training is not finished")
    sizes = check_run(run, config, result)
    if not run.evaluation_results.exists():
        raise UserError("not evaluated; run `bigbatch-ue evaluate`")
    arms = load_arms(run.evaluation_results)
    own = [arm for arm in arms if arm.arm in RUN_ARMS]
    if not own:
        raise UserError("no protected arm was evaluated")
    for arm in own:
        check_arm(arm, config, result)
    return [_row(run, config, result, sizes, arm, arms) for arm in own]


def _row(
    run: RunFiles,
    config: Config,
    result: TrainingResult,
    sizes: Sequence[int],
    arm: Arm,
    arms: Sequence[Arm],
) -> dict[str, Any]:
    return {
        **_identity(run, config, arm_title(arm), arm.recipe.get("target")),
        "effective_batch": result.effective_batch,
        "target_seed": arm.seed,
        "optimizer_steps": result.optimizer_steps,
        "learning_rate": result.learning_rate,
        "images_seen": result.images_seen,
        "full_batch": config.full_batch(sum(sizes)),
        "final_accuracy": arm.final_accuracy,
        "peak_accuracy": arm.peak_accuracy,
        "tail_accuracy": arm.tail_mean,
        "detrended_oscillation": _detrended_oscillation(arm.accuracies),
        "clean_accuracy": _control_accuracy(ArmName.CLEAN, arm, arms),
        "noise_accuracy": _control_accuracy(ArmName.RANDOM_NOISE, arm, arms),
        "chance": 1 / len(arm.confusion),
        "test_images": int(np.sum(arm.confusion)),
        "tail_epochs": last_quarter(len(arm.accuracies)),
        "images_per_second": result.images_per_second,
        "peak_memory_mib": result.peak_memory_mib,
        "agreement": result.agreement.nmi if result.agreement else math.nan,
        "purity": result.agreement.purity if result.agreement else math.nan,
        **_critical_batch(result),
        "failed": False,
        "reason": "",
    }


def _failed_row(
    run: RunFiles, config: Config, outcome: Mapping[str, Any], spec: ArmSpec
) -> dict[str, Any]:
    """Return the row of an arm that was planned for a failed run."""
    result = _result(run)
    unknown = {name: math.nan for name, kind in COLUMNS.items() if kind == "float64"}
    counts = {name: 0 for name, kind in COLUMNS.items() if kind == "int64"}
    return {
        **unknown,
        **counts,
        **_identity(run, config, arm_title(spec)),
        "effective_batch": outcome["cell"].get("mean_batch", config.batch.effective),
        "target_seed": spec.seed,
        "optimizer_steps": result.optimizer_steps if result else 0,
        "full_batch": outcome["cell"].get("full", 0),
        "failed": True,
        "reason": hide_home(outcome["outcome"]["reason"]),
    }


def _identity(
    run: RunFiles, config: Config, arm: str, target: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return what tells a row from others; `target` is how its target was really trained."""
    settings = shared_settings(config)
    settings["target"] = target or settings["target"]
    return {
        **config.axes,
        "arm": arm,
        "settings": digest(settings),
        "run": run.folder.name,
    }


def _detrended_oscillation(accuracies: Sequence[float]) -> float:
    """Return the standard deviation of the last quarter around its least-squares line.

    It is sqrt(RSS / (n - 2)) for n epochs, as a line takes two degrees of freedom; NaN if n < 3.
    """
    count = last_quarter(len(accuracies))
    if count < 3:
        return math.nan
    epochs, tail = np.arange(count), np.asarray(accuracies[-count:])
    residuals = tail - Polynomial.fit(epochs, tail, 1)(epochs)
    return math.sqrt(residuals @ residuals / (count - 2))


def _critical_batch(result: TrainingResult) -> dict[str, float]:
    """Return the noise scale of the generators' parameters; null in the record is unbounded."""
    try:
        measured = result.noise_scale.get("parameters")
        if measured is None:
            return dict.fromkeys(CRITICAL_COLUMNS, math.nan)
        values = [measured[name] for name in ("value", "low", "high")]
        numbers = [math.inf if value is None else float(value) for value in values]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"result.json: noise_scale is not readable ({error!r})") from None
    return dict(zip(CRITICAL_COLUMNS, numbers, strict=True))


def _control_accuracy(name: ArmName, arm: Arm, arms: Sequence[Arm]) -> float:
    """Return the final accuracy of a control with the seed, labels and recipe of an arm.

    Of several, the one with the same countermeasure is taken, or else one without; NaN if there is
    none.
    """
    controls = {
        other.countermeasure: other.final_accuracy
        for other in reversed(arms)
        if (other.arm, other.seed, other.labels, other.target, other.recipe)
        == (name, arm.seed, arm.labels, arm.target, arm.recipe)
    }
    plain = controls.get(Countermeasure.NONE, math.nan)
    return controls.get(arm.countermeasure, plain)


# -- the table -----------------------------------------------------------------------------------


def _table(rows: Mapping[RunFiles, list[dict[str, Any]]]) -> tuple[pd.DataFrame, list[Problem]]:
    """Make one table of the rows of each run; runs with values of a wrong type are left out."""
    try:
        return _typed([row for own in rows.values() for row in own]), []
    except _MALFORMED:
        good, problems = [], []
        for run, own in rows.items():
            try:
                _typed(own)
            except _MALFORMED as error:
                problems.append(_malformed(run, error))
            else:
                good += own
        return _typed(good), problems


def _typed(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def _malformed(run: RunFiles, error: Exception) -> Problem:
    return Problem(run.folder.name, f"malformed records ({type(error).__name__}: {error})")


def _without_duplicates(table: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """Sort the rows and keep each once; also return the duplicates."""
    identity = list(TARGET_COLUMNS)
    table = table.sort_values([*identity, "run"], kind="stable", ignore_index=True)
    again = table.duplicated(identity)
    duplicates = [
        Problem(run, f"duplicate of another run ({arm})")
        for run, arm in zip(table["run"][again], table["arm"][again], strict=True)
    ]
    return table[~again].reset_index(drop=True), duplicates
