"""Train the networks that a scraper would, and test them on clean images: every arm by one recipe.

What one target needs hours for is done once: an arm is kept in `<data.root>/targets` under a digest
of what decides its answer, whoever asks for it, so that an interrupted evaluation continues, ranks
and jobs share the arms among them, and runs at other batch sizes share their controls.
"""

import shlex
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from filelock import FileLock
from numpy.typing import NDArray

from bigbatch_ue.config.load import revise_evaluation
from bigbatch_ue.config.names import ArmName
from bigbatch_ue.config.schema import Config
from bigbatch_ue.data.decoded import DataSet, prepare_dataset
from bigbatch_ue.evaluation.arm_store import finished_arm, train_apart, train_together
from bigbatch_ue.evaluation.arms import Arm, ArmSpec, arm_specs
from bigbatch_ue.evaluation.countermeasures import applies
from bigbatch_ue.evaluation.external_images import load_external_images
from bigbatch_ue.evaluation.outputs import write_outputs
from bigbatch_ue.evaluation.subject import Subject
from bigbatch_ue.networks.surrogate import extract_features, surrogate_of_run
from bigbatch_ue.protection.perturbations import Perturbations, load_perturbations
from bigbatch_ue.runs.folder import Run, RunFiles, load_run
from bigbatch_ue.runs.result import read_result
from bigbatch_ue.runtime.accelerator import start_accelerator
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.training.train import train_on


def evaluate(
    run_folder: Path,
    *,
    target: str | None = None,
    overrides: Sequence[str] = (),
    shard: tuple[int, int] = (1, 1),
    download: bool = False,
    command: Sequence[str] = (),
) -> list[Arm]:
    """Judge the perturbations of a finished run by the targets that its `evaluation` names.

    Writes `evaluation/` in the run's folder: `results.json` after each arm; at the end TensorBoard,
    pictures and `report.html`. Under a launcher, ranks share the arms, or each batch.

    Args:
        run_folder: of a finished run.
        target: a preset of `config.TARGETS`, by default the run's own target.
        overrides: `key=value` settings of `target`, `evaluation` and `data.root`.
        shard: (i, n) with 1 <= i <= n: do the i-th of n parts of the arms.
        download: allow the data set to be downloaded.
        command: what the user typed, for the report.

    Returns:
        The arms that were asked for, of all shards, as far as they are finished.

    Raises:
        UserError: no finished run, a data set that has changed, settings that do not fit, training
            that diverges.
    """
    config, run = load_run(run_folder)
    config = revise_evaluation(config, target, overrides)
    accelerator = start_accelerator()
    try:
        subject = _subject_of_run(config, run, accelerator, download)
        return run_evaluation(subject, run.evaluation, shard, accelerator, command)
    finally:
        accelerator.end_training()


def evaluate_external(
    config: Config,
    place: str,
    *,
    shard: tuple[int, int] = (1, 1),
    download: bool = False,
    command: Sequence[str] = (),
) -> list[Arm]:
    """Judge images that another program has perturbed, as `evaluate` does.

    Args:
        config: its `data` is the clean original; `target` and `evaluation` say what is trained. The
            folder is `output`, or one below `runs/` named after both.
        place: `folder:PATH` or `npz:PATH` of the perturbed train images, as for `load_foreign`.
        shard: as for `evaluate`.
        download: allow the clean data set to be downloaded.
        command: what the user typed, for the report.

    Returns:
        As for `evaluate`.

    Raises:
        UserError: images that do not belong together, and as for `evaluate`.
    """
    accelerator = start_accelerator()
    try:
        data = prepare_dataset(config.data, download=download)
        perturbed = load_external_images(place, data, config.data)
        change = (perturbed.astype(np.float32) - data.train.images) / np.float32(255)
        learnt = Perturbations(change, np.arange(len(change)), float(np.abs(change).max()))
        subject = Subject(
            ArmName.PROTECTED,
            config,
            data,
            learnt,
            data.train.labels,
            lambda: _flat(data.train.images),
        )
        name = f"{config.data.title}-{Path(place.partition(':')[2] or place).stem}"
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
) -> list[Arm]:
    """Train what is missing of this shard's arms, then report on all that are there."""
    if len(subject.data.classes) < 2:
        raise UserError(f"{subject.data.name} has a single class: nothing for a target to learn")
    wanted, notes = _wanted(subject)
    index, count = shard
    mine = wanted[index - 1 :: count]
    together = subject.config.evaluation.share == "batches" and accelerator.num_processes > 1
    if together:
        train_together(mine, subject, folder, accelerator)
    else:
        train_apart(mine, subject, folder, accelerator.device)
    accelerator.wait_for_everyone()
    ranks = accelerator.num_processes if together else 1
    arms = [arm for case in wanted if (arm := finished_arm(case, subject, ranks))]
    if accelerator.is_main_process and arms:
        about = {"wanted": len(wanted), "notes": notes, "command": shlex.join(command)}
        write_outputs(folder, subject, arms, about)
    accelerator.wait_for_everyone()
    return arms


def _subject_of_run(config: Config, run: Run, accelerator: Accelerator, download: bool) -> Subject:
    data = prepare_dataset(config.data, download=download)
    learnt = load_perturbations(config, run, data)
    result = read_result(run.result)

    def features() -> NDArray[np.float32]:
        surrogate = surrogate_of_run(config, data, accelerator.device)
        return extract_features(surrogate, data.train.images, accelerator.device).numpy()

    control = None
    asked = ArmName.RANDOM_SURROGATE in config.evaluation.arms
    if asked and config.surrogate.weights != "random":
        control = _random_surrogate(config, run, data, accelerator)
    facts = {
        "run_seed": config.seed,
        "effective_batch": result.effective_batch,
        "optimizer_steps": result.optimizer_steps,
    }
    return Subject(ArmName.UC, config, data, learnt, learnt.assignment, features, control, facts)


def _random_surrogate(
    config: Config, run: Run, data: DataSet, accelerator: Accelerator
) -> Perturbations:
    """The perturbations of the same run with a surrogate of random weights, trained if need be."""
    output = run.controls / ArmName.RANDOM_SURROGATE
    surrogate = config.surrogate.model_copy(update={"weights": "random"})
    config = config.model_copy(update={"output": output, "surrogate": surrogate})
    output.parent.mkdir(exist_ok=True)
    lock = FileLock(output.with_suffix(".lock")) if accelerator.is_main_process else nullcontext()
    with lock:
        if not Run(output, "").finished:
            train_on(accelerator, config, resume=True)
            accelerator.free_memory()
    config, control = load_run(output)
    return load_perturbations(config, control, data)


def _wanted(subject: Subject) -> tuple[list[ArmSpec], list[str]]:
    """The arms that are asked for and make sense, and why others do not."""
    wanted, notes = [], []
    channels = subject.data.train.images.shape[1]
    for case in arm_specs(subject.config.evaluation, subject.name):
        if not applies(case.countermeasure, channels):
            notes.append(f"{case.countermeasure}: the images are grey already")
        elif case.arm is ArmName.RANDOM_SURROGATE and subject.control is None:
            notes.append("random surrogate: this run's own surrogate is random")
        else:
            wanted.append(case)
    return wanted, list(dict.fromkeys(notes))


def _flat(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Images as rows of float32 in [0, 1]: features of a set that has no surrogate."""
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)
