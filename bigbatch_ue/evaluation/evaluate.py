"""Evaluation: train the targets of all arms with one recipe, and test them on clean images."""

import shlex
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from numpy.typing import NDArray

from bigbatch_ue.config.load import revise_evaluation
from bigbatch_ue.config.names import ArmName
from bigbatch_ue.config.schema import Config
from bigbatch_ue.data.decoded import DataSet, dataset_of_run, prepare_dataset
from bigbatch_ue.data.source import Pixels
from bigbatch_ue.evaluation.arm_store import (
    finished_arm,
    folder_of_arms,
    train_sharing_arms,
    train_sharing_batches,
)
from bigbatch_ue.evaluation.arms import Arm, ArmSpec, arm_specs
from bigbatch_ue.evaluation.countermeasures import applies
from bigbatch_ue.evaluation.external_images import load_external_images
from bigbatch_ue.evaluation.outputs import write_outputs
from bigbatch_ue.evaluation.report.evaluation import Evaluation
from bigbatch_ue.evaluation.subject import Subject
from bigbatch_ue.files.locks import locked
from bigbatch_ue.networks.surrogate import extract_features, surrogate_of_run
from bigbatch_ue.protection.perturbations import Perturbations, load_perturbations
from bigbatch_ue.runs.folder import Run, RunFiles, load_run
from bigbatch_ue.runs.result import read_result
from bigbatch_ue.runtime.accelerator import start_accelerator
from bigbatch_ue.runtime.console import note
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.training.train import train_on


def evaluate(
    run_folder: Path,
    *,
    place: str | None = None,
    target: str | None = None,
    overrides: Sequence[str] = (),
    shard: tuple[int, int] = (1, 1),
    download: bool = False,
    command: Sequence[str] = (),
    page: bool = True,
) -> Evaluation:
    """Evaluate the perturbations of a finished run with the targets of its `evaluation` settings.

    Writes `evaluation/` in the run's folder: `results.json` after each arm; at the end TensorBoard,
    pictures and `report.html`. Under a launcher, the ranks divide the arms, or each batch.

    Args:
        run_folder: folder of a finished run.
        place: where the images of the run are now, such as `folder:PATH`; None if they have
            not moved.
        target: a preset of `config.names.TARGETS`; by default the run's own target.
        overrides: `key=value` settings of `target`, `evaluation` and `data.root`.
        shard: (i, n) with 1 <= i <= n: train the i-th of n parts of the arms.
        download: allow the data set to be downloaded.
        command: the user's command line, for the report.
        page: draw pictures and write the report; a sweep leaves it to later calls.

    Returns:
        The requested arms of all shards, as far as they are finished.

    Raises:
        UserError: the run is not finished, the data set has changed, the settings are impossible,
            or a training diverges.
    """
    config, run = load_run(run_folder, place)
    config = revise_evaluation(config, target, overrides)
    accelerator = start_accelerator()
    try:
        subject = _subject_of_run(config, run, accelerator, download)
        return run_evaluation(subject, run.evaluation, shard, accelerator, command, page=page)
    finally:
        accelerator.end_training()


def evaluate_external(
    config: Config,
    location: str,
    *,
    shard: tuple[int, int] = (1, 1),
    download: bool = False,
    command: Sequence[str] = (),
) -> Evaluation:
    """Evaluate images that another program has perturbed, as `evaluate` does.

    Args:
        config: `data` is the clean original; `target` and `evaluation` are the recipe. The folder
            is `output`, or one below `runs/` that is named after the data set and `location`.
        location: `folder:PATH` or the like, of the perturbed train images, as for
            `load_external_images`.
        shard: as for `evaluate`.
        download: allow the clean data set to be downloaded.
        command: as for `evaluate`.

    Returns:
        As for `evaluate`.

    Raises:
        UserError: the images do not match the clean ones, and as for `evaluate`.
    """
    accelerator = start_accelerator()
    try:
        data = prepare_dataset(config.data, download=download)
        perturbed = load_external_images(location, data, config.data.take)
        change = (perturbed.astype(np.float32) - data.train.images) / np.float32(255)
        subject = Subject(
            name=ArmName.PROTECTED,
            config=config,
            data=data,
            perturbations=Perturbations(
                change, np.arange(len(change)), float(np.abs(change).max())
            ),
            image_groups=data.train.labels,
            features=lambda: _flatten(data.train.images),
            origin={"protected": location},
        )
        name = f"{config.data.shown_as}-{Path(location.partition(':')[2] or location).stem}"
        folder = RunFiles(config.output or Path("runs") / name).evaluation
        return run_evaluation(subject, folder, shard, accelerator, command)
    finally:
        accelerator.end_training()


def run_evaluation(
    subject: Subject,
    folder: Path,
    shard: tuple[int, int],
    accelerator: Accelerator,
    command: Sequence[str] = (),
    *,
    page: bool = True,
) -> Evaluation:
    """Train the missing arms of this shard, then report on all finished arms."""
    if len(subject.data.classes) < 2:
        raise UserError(
            f"{subject.data.name}: has a single class, so there is nothing to learn; use a data "
            "set with several"
        )
    config, (specs, notes) = subject.config, _applicable_arms(subject)
    index, count = shard
    shard_specs = specs[index - 1 :: count]
    share_batches = config.evaluation.share == "batches" and accelerator.num_processes > 1
    if share_batches:
        train_sharing_batches(shard_specs, subject, folder, accelerator)
    else:
        train_sharing_arms(shard_specs, subject, folder, accelerator.device)
    accelerator.wait_for_everyone()
    ranks = accelerator.num_processes if share_batches else 1
    arms = Evaluation(arm for spec in specs if (arm := finished_arm(spec, subject, ranks)))
    if accelerator.is_main_process and arms:
        about = {"wanted": len(specs), "notes": notes, "command": shlex.join(command)}
        write_outputs(folder, subject, arms, about, page=page)
        _warn_of_precisions(arms, config.data.root)
    accelerator.wait_for_everyone()
    return arms


def _warn_of_precisions(arms: Sequence[Arm], root: Path) -> None:
    """Say if arms, of which some were trained earlier or elsewhere, differ in their precision."""
    counts = Counter(arm.trained_in for arm in arms)
    if len(counts) > 1:
        each = " and ".join(f"{count} in {precision}" for precision, count in counts.most_common())
        note(
            f"warning: {folder_of_arms(root)}: of the targets, {each} were trained, so that they "
            "differ in more than their images; to train all alike, evaluate with another data.root",
            warning=True,
        )


def _subject_of_run(config: Config, run: Run, accelerator: Accelerator, download: bool) -> Subject:
    """Load the data set and perturbations of a run; train its control run if it is missing."""
    data = dataset_of_run(config, run, download=download)
    perturbations = load_perturbations(config, run, data)
    result = read_result(run.result)

    def features() -> NDArray[np.float32]:
        run.require_weights(config)
        surrogate = surrogate_of_run(config, data, accelerator.device)
        return extract_features(surrogate, data.train.images, accelerator.device).numpy()

    control = None
    requested = ArmName.RANDOM_SURROGATE in config.evaluation.arms
    if requested and config.surrogate.weights != "random":
        control = _random_surrogate_control(config, run, data, accelerator)
    return Subject(
        name=ArmName.UC,
        config=config,
        data=data,
        perturbations=perturbations,
        image_groups=perturbations.assignment,
        features=features,
        control=control,
        facts={
            "run_seed": config.seed,
            "effective_batch": result.effective_batch,
            "smallest_batch": min(result.effective_batch_per_generator),
            "optimizer_steps": result.optimizer_steps,
        },
        origin=_origin(config),
    )


def _origin(config: Config) -> dict[str, Any]:
    """Return the settings that decide perturbations, except for images, seed and a fixed batch."""
    content = config.answer()
    del content["seed"], content["data"]["name"]
    if content["batch"]["effective"] != "auto":
        del content["batch"]["effective"]
    return content


def _random_surrogate_control(
    config: Config, run: Run, data: DataSet, accelerator: Accelerator
) -> Perturbations:
    """Load the perturbations of the same run with a random surrogate; train it if necessary.

    The control takes the batches that the run has chosen, and chooses none itself.
    """
    output = run.controls / ArmName.RANDOM_SURROGATE
    batch, chosen = config.batch, read_result(run.result).chosen_batch
    if chosen is not None:
        points = ((0, chosen.first), (chosen.step, chosen.batch))
        batch = batch.model_copy(update={"effective": chosen.batch, "schedule": points})
    surrogate = config.surrogate.model_copy(update={"weights": "random"})
    config = config.model_copy(update={"output": output, "surrogate": surrogate, "batch": batch})
    output.parent.mkdir(exist_ok=True)
    lock = locked(output.with_suffix(".lock")) if accelerator.is_main_process else nullcontext()
    with lock:
        if not RunFiles(output).finished:
            train_on(accelerator, config, data, resume=True)
            accelerator.free_memory()
    config, control = load_run(output)
    return load_perturbations(config, control, data)


def _applicable_arms(subject: Subject) -> tuple[list[ArmSpec], list[str]]:
    """Return the requested arms that are applicable, and notes why others are left out."""
    specs, notes = [], []
    channels = subject.data.train.images.shape[1]
    for spec in arm_specs(subject.config.evaluation, subject.name):
        if not applies(spec.countermeasure, channels):
            notes.append(f"{spec.countermeasure}: the images are grey already")
        elif spec.arm is ArmName.RANDOM_SURROGATE and subject.control is None:
            notes.append("random surrogate: this run's own surrogate is random")
        elif spec.arm is ArmName.CLASS_NOISE and subject.groups_are_classes:
            notes.append("class noise: the same as random noise, because the clusters are classes")
        else:
            specs.append(spec)
    return specs, list(dict.fromkeys(notes))


def _flatten(images: Pixels) -> NDArray[np.float32]:
    """Flatten images to float32 [N, d] in [0, 1]: features of a data set without a surrogate."""
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)
