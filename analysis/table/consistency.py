"""Checks that the records of a run agree with its configuration and with one another."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from bigbatch_ue.batching.plan import make_plan
from bigbatch_ue.config.schema import Config
from bigbatch_ue.evaluation.arms import Arm, arm_title
from bigbatch_ue.files.formats import parse_json, read_json
from bigbatch_ue.files.paths import require_file
from bigbatch_ue.runs.folder import RunFiles
from bigbatch_ue.runs.identity import DataIdentity, answer_digest
from bigbatch_ue.runs.result import TrainingResult
from bigbatch_ue.runtime.errors import UserError


def check_run(run: RunFiles, config: Config, result: TrainingResult) -> list[int]:
    """Compare all records of a run that a folder contains.

    Returns:
        The number of images in each cluster.

    Raises:
        UserError: the first contradiction, or a batch that the clusters capped.
    """
    state = read_json(run.state, dict)
    names = (None, config.data.name)  # earlier versions knew a user's files by their place
    weights, fingerprint = state.get("weights"), str(state.get("data"))
    known = {answer_digest(config, DataIdentity(name, fingerprint), weights) for name in names}
    if state.get("answer") not in known:
        raise UserError("config.yaml or the data set has changed since training")
    answer = {"answer": state["answer"]}
    assignment, metadata = _read_tensor(run.clusters, "assignment")
    require_values(metadata, answer, run.clusters.name)
    sizes = [int(n) for n in np.bincount(assignment, minlength=config.clusters.generators)]
    plan = make_plan(config, sizes, result.world_size, result.chosen_batch)
    expected = {
        "dataset": config.data.shown_as,
        "seed": config.seed,
        "scope": config.batch.scope,
        "requested_batch": plan.requested,
        "effective_batch": plan.effective,
        "effective_batch_per_generator": plan.per_generator,
        "optimizer_steps": plan.steps,
        "images_seen": plan.images,
    }
    images = config.data.model_copy(update={"name": result.dataset})  # their place may differ
    require_values({**vars(result), "dataset": images.shown_as}, expected, run.result.name)
    _, metadata = _read_tensor(run.perturbations)
    require_values(metadata, answer | {"steps": plan.steps}, run.perturbations.name)
    logged = {"steps": plan.steps, "images_seen": expected["images_seen"]}
    require_values(_logged_totals(run), logged, run.metrics.name)
    if plan.is_capped:
        raise UserError(
            f"batch.effective: clusters of {min(sizes)} to {max(sizes)} images capped the batch "
            f"of {plan.largest.requested} at {min(plan.largest.per_generator)} to "
            f"{max(plan.largest.per_generator)}; "
            "train with batch.extend=views"
        )
    return sizes


def check_arm(arm: Arm, config: Config, result: TrainingResult) -> None:
    """Check that an arm was evaluated for this run.

    Raises:
        UserError: the first contradiction.
    """
    expected = {
        "dataset": config.data.shown_as,
        "run_seed": config.seed,
        "effective_batch": result.effective_batch,
        "optimizer_steps": result.optimizer_steps,
    }
    require_values(vars(arm), expected, f"evaluation of {arm_title(arm)}")


def require_values(record: Mapping[str, Any], expected: Mapping[str, Any], name: str) -> None:
    """Check that a record has the expected values.

    Args:
        record: the record; it may have more values.
        expected: values by name.
        name: name of the record in the error.

    Raises:
        UserError: the first value that differs.
    """
    for key, value in expected.items():
        if record.get(key) != value:
            raise UserError(f"{name}: {key} is {record.get(key)}, but {value} is expected")


def _logged_totals(run: RunFiles) -> dict[str, int]:
    """Return steps and images of the metrics, of which each rank group has a file of its own."""
    logs = [run.metrics] if run.metrics.exists() else sorted(run.groups.glob("*/metrics.jsonl"))
    try:
        lines = [require_file(log).read_bytes().splitlines() for log in logs or [run.metrics]]
        last = [parse_json(own[-1]) if own else {} for own in lines]
        return {
            "steps": max(map(len, lines)),
            "images_seen": sum(line["images_seen"] for line in last),
        }
    except (UserError, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{run.metrics.name}: not readable ({error})") from None


def _read_tensor(path: Path, name: str | None = None) -> tuple[Any, dict[str, Any]]:
    """Return a tensor of a safetensors file, None without a `name`, and the file's metadata."""
    try:
        with safe_open(require_file(path), framework="np") as file:
            metadata = parse_json((file.metadata() or {}).get("bigbatch_ue", "{}"))
            if not isinstance(metadata, dict):
                raise ValueError("its metadata are not a mapping")
            return (file.get_tensor(name) if name else None), metadata
    except (UserError, SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path.name}: not readable ({error})") from None
