"""Train the network that a scraper would, on clean and on protected images, by one recipe."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table

from bigbatch_ue.artefacts import read_json, write_json
from bigbatch_ue.backbone import Normalised, build_model
from bigbatch_ue.config import ArmName, Config, digest
from bigbatch_ue.data import DataSet, prepare
from bigbatch_ue.engine import world_size
from bigbatch_ue.errors import UserError
from bigbatch_ue.fit import batches, train_classifier
from bigbatch_ue.progress import progress_bar
from bigbatch_ue.protect import Perturbations, load_perturbations, protected_images
from bigbatch_ue.randomness import Purpose, draw, torch_seed
from bigbatch_ue.run import load_run

LABELS = {
    ArmName.CLEAN: "clean",
    ArmName.RANDOM_NOISE: "random noise",
    ArmName.UC: "protected",
}
EVALUATION = "evaluation.json"
_RECIPE = 1


@dataclass(frozen=True)
class Arm:
    """One target network, trained from scratch and tested on the whole clean test set.

    Attributes:
        name: what the train images were: `clean`, under `random_noise` of the same bound with the
            same clusters, or protected (`uc`).
        seed: decides initial weights, order and views, alike in every arm.
        final_accuracy: fraction of the test set, after the last epoch.
        peak_accuracy: after the best epoch.
        accuracies: after each epoch.
        target: the timm model.
        train_steps: optimizer steps of the target network.
        seconds: of the target's training, tests included.
        effective_batch: of the generators; None but for `uc`.
        optimizer_steps: of the generators; 0 but for `uc`.
        inputs: digest of what decides the answer.
    """

    name: ArmName
    seed: int
    final_accuracy: float
    peak_accuracy: float
    accuracies: list[float]
    target: str
    train_steps: int
    seconds: float
    effective_batch: int | None = None
    optimizer_steps: int = 0
    inputs: str = ""


def evaluate(
    run_folder: Path,
    *,
    seeds: Sequence[int] | None = None,
    arms: Sequence[ArmName] = tuple(ArmName),
    download: bool = False,
    known: Sequence[Arm] = (),
) -> list[Arm]:
    """Train and test the arms of a finished run, and keep the results in `evaluation.json`.

    Args:
        run_folder: of a finished run.
        seeds: of the target networks, by default the run's own.
        arms: which of them; by default all.
        download: allow the data set to be downloaded.
        known: arms of other runs; one with the same inputs, such as `clean`, is not trained again.

    Returns:
        For each seed, the arms in the order of `arms`. The file is written after each of them, so
        what an interrupted call has done is not done again.

    Raises:
        UserError: no finished run, a data set that has changed, training that diverges, or more
            than one process.
    """
    if world_size() > 1:
        raise UserError("evaluate runs in one process for now: start it without a launcher")
    config, run = load_run(run_folder)
    data = prepare(config.data, download=download)
    if len(data.classes) < 2:
        raise UserError(f"{data.name} has a single class: there is nothing for a target to learn")
    learnt = load_perturbations(config, run, data)
    result = read_json(run.result)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    path = run.folder / EVALUATION
    kept = load_arms(path) if path.exists() else []
    wanted = []
    for seed in [config.seed] if seeds is None else seeds:
        for name in arms:
            perturbations = _perturbations(name, learnt, seed)
            inputs = _inputs(name, perturbations, data, config, seed)
            arm = next((arm for arm in (*kept, *known) if arm.inputs == inputs), None)
            if arm is None:
                arm = train_arm(name, _images(data, perturbations), data, config, seed, device)
                arm = replace(arm, inputs=inputs)
            if name is ArmName.UC:
                batch, steps = result["effective_batch"], result["optimizer_steps"]
                arm = replace(arm, effective_batch=batch, optimizer_steps=steps)
            wanted.append(arm)
            if arm not in kept:
                kept = [old for old in kept if (old.name, old.seed) != (name, seed)] + [arm]
                write_json(path, [asdict(arm) for arm in kept])
    return wanted


def load_arms(path: Path) -> list[Arm]:
    """The arms in an `evaluation.json`.

    Raises:
        UserError: a file that is missing, torn or of another kind.
    """
    records = read_json(path)
    try:
        return [Arm(**{**record, "name": ArmName(record["name"])}) for record in records]
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(
            f"{path}: no list of arms ({error}); remove it to train them anew"
        ) from None


def train_arm(
    name: ArmName,
    images: NDArray[np.uint8],
    data: DataSet,
    config: Config,
    seed: int,
    device: torch.device,
) -> Arm:
    """Train `config.target` from scratch on `images` with the labels of `data.train`.

    Initial weights, order and views depend on `seed` only, and differ from those of a surrogate
    that was fitted with the same seed: a scraper would not have that very network.

    Args:
        name: of the arm.
        images: uint8 [N, C, H, W], what the scraper got.
        data: gives the labels, and the clean test set.
        config: of the run; its `target` and the padding and flip of `augment` are the recipe.
        seed: of the target.
        device: where to train.

    Returns:
        The arm, without what only its run knows: `effective_batch`, `optimizer_steps`, `inputs`.
    """
    recipe = config.target.fit
    own = torch_seed(seed, Purpose.CONTROL, 1)
    model = _target(images, data, config, own)
    began = time.perf_counter()
    with progress_bar() as progress:
        task = progress.add_task(f"{name}, seed {seed}", total=recipe.epochs)

        def on_epoch(_: int, reached: float | None) -> None:
            progress.update(task, advance=1, description=f"{name}, seed {seed}: {reached:.1%}")

        accuracies = train_classifier(
            model,
            images,
            data.train.labels,
            recipe=recipe,
            augment=config.augment,
            seed=own,
            device=device,
            test=(data.test.images, data.test.labels),
            on_epoch=on_epoch,
        )
    return Arm(
        name=name,
        seed=seed,
        final_accuracy=accuracies[-1],
        peak_accuracy=max(accuracies),
        accuracies=accuracies,
        target=config.target.model,
        train_steps=recipe.epochs * len(batches(np.arange(len(images)), recipe.batch)),
        seconds=round(time.perf_counter() - began, 3),
    )


def random_noise(learnt: Perturbations, seed: int) -> Perturbations:
    """The control: `+eps` or `-eps` at random in each pixel of each cluster's perturbation."""
    signs = 2 * draw(seed, Purpose.CONTROL).integers(2, size=learnt.delta.shape) - 1
    return replace(learnt, delta=(learnt.eps * signs).astype(np.float32))


def arms_table(arms: Sequence[Arm]) -> Table:
    """A table of the arms, a row each, that fits in 80 columns."""
    table = Table(title="accuracy on the clean test set", title_justify="left")
    table.add_column("train images")
    for heading in ("B", "steps", "seed", "final %", "peak %", "seconds"):
        table.add_column(heading, justify="right")
    for arm in arms:
        is_uc = arm.effective_batch is not None
        table.add_row(
            LABELS[arm.name],
            f"{arm.effective_batch:,}" if is_uc else "-",
            f"{arm.optimizer_steps:,}" if is_uc else "-",
            str(arm.seed),
            f"{arm.final_accuracy:.1%}"[:-1],
            f"{arm.peak_accuracy:.1%}"[:-1],
            f"{arm.seconds:.1f}",
        )
    return table


def _target(images: NDArray[np.uint8], data: DataSet, config: Config, seed: int) -> Normalised:
    """The network of `config.target` for images of this kind, with the weights of `seed`."""
    _, channels, size, _ = images.shape
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return build_model(
            config.target.model,
            channels=channels,
            classes=len(data.classes),
            size=size,
            args=config.target.args,
        )


def _perturbations(name: ArmName, learnt: Perturbations, seed: int) -> Perturbations | None:
    match name:
        case ArmName.CLEAN:
            return None
        case ArmName.RANDOM_NOISE:
            return random_noise(learnt, seed)
        case ArmName.UC:
            return learnt


def _images(data: DataSet, perturbations: Perturbations | None) -> NDArray[np.uint8]:
    """What the scraper gets, uint8 [N, C, H, W]."""
    if perturbations is None:
        return data.train.images
    return protected_images(data.train.images, **vars(perturbations))


def _inputs(
    name: ArmName, perturbations: Perturbations | None, data: DataSet, config: Config, seed: int
) -> str:
    """Digest of what decides an arm's answer."""
    content = [_RECIPE, name, data.name, data.fingerprint, seed]
    recipe = [config.target.model_dump(mode="json"), config.augment.pad, config.augment.flip]
    return digest([*content, *recipe, perturbations and perturbations.fingerprint()])
