"""Estimated times of a sweep's cells, from a short measurement on this machine."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigbatch_ue.benchmark.timing import fastest
from bigbatch_ue.config.names import ArmName, Grouping
from bigbatch_ue.config.schema import Config
from bigbatch_ue.data.decoded import DataSet
from bigbatch_ue.evaluation.arms import RUN_ARMS, ArmSpec, arm_specs
from bigbatch_ue.networks.backbone import build_network
from bigbatch_ue.networks.frozen import FrozenNetwork, compute_mode
from bigbatch_ue.networks.generator import GeneratorBank
from bigbatch_ue.networks.inference import autocast
from bigbatch_ue.networks.spec import NetworkSpec, surrogate_spec, target_spec
from bigbatch_ue.networks.surrogate import untrained_surrogate
from bigbatch_ue.runtime.progress import progress
from bigbatch_ue.sweeps.cells import Cell

_WITHOUT_CLUSTERS = (ArmName.CLEAN, ArmName.CLASS_NOISE, ArmName.UNPROTECTED)
"""Arms that depend on neither the perturbations nor the clusters of a run."""
_REPEATS = 2


@dataclass(frozen=True)
class Rates:
    """Seconds of the parts of a cell on this machine.

    Attributes:
        bank: one pass of all generators, forward and backward.
        image: one image through the frozen surrogate, forward and back to its pixels.
        surrogate: one image of the surrogate's own training.
        target: one image of the target's training.
    """

    bank: float
    image: float
    surrogate: float
    target: float


def estimate(cells: Sequence[Cell]) -> dict[str, float]:
    """Estimate the seconds of each cell by its name, in the given order.

    Work that several cells share (a trained surrogate, the controls of a target seed) counts for
    the first one.
    """
    rates: dict[str, Rates] = {}
    done: set[Hashable] = set()
    seconds = {}
    kinds = {cell.name: _kind(cell) for cell in cells}
    with progress("timing networks", "kinds of cells", len(set(kinds.values()))) as stage:
        for cell in cells:
            if kinds[cell.name] not in rates:
                rates[kinds[cell.name]] = measure_rates(cell.config, cell.data)
                stage.advance()
    for cell in cells:
        kind = kinds[cell.name]
        surrogate = (kind, cell.data.identity, cell.config.seed)
        arms = {(kind, cell.data.identity, *arm) for arm in _arms(cell)}
        new_arms = len(arms - done)
        seconds[cell.name] = _seconds(cell, rates[kind], surrogate not in done, new_arms)
        done |= {surrogate, *arms}
    return seconds


def _kind(cell: Cell) -> str:
    """Return what of a cell decides the rates."""
    return cell.config.model_dump_json(include={"data", "surrogate", "generator", "target"})


def _arms(cell: Cell) -> Iterator[tuple[ArmSpec, Hashable]]:
    """Yield the arms of a cell, each with what of the run it depends on besides its images."""
    config = cell.config
    clusters = None if config.clusters.by == Grouping.LABELS else config.seed
    for spec in arm_specs(config.evaluation, ArmName.UC):
        if spec.arm in RUN_ARMS:
            yield spec, cell.name
        else:
            yield spec, None if spec.arm in _WITHOUT_CLUSTERS else clusters


def measure_rates(config: Config, data: DataSet) -> Rates:
    """Time a few passes of networks with random weights on this machine's device."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    count, channels, size, _ = data.train.images.shape
    classes = max(len(data.classes), 2)
    surrogate = surrogate_spec(config.surrogate, channels, size)
    target = target_spec(config.target, channels, size)
    p = config.clusters.generators
    bank = GeneratorBank(p, channels, size, config.generator, config.seed).to(device)
    features = untrained_surrogate(config.surrogate, channels, size).to(device)
    frozen = FrozenNetwork(features, compute_mode(config.compute, device))

    def random_images(number: int) -> Tensor:
        images = torch.rand(number, channels, size, size, device=device)
        return images.to(memory_format=torch.channels_last)

    def training_seconds(spec: NetworkSpec, batch: int) -> float:
        network, images = build_network(spec, classes).to(device), random_images(min(batch, count))
        network = network.to(memory_format=torch.channels_last)
        return fastest(lambda: _train_on(network, images), device, _REPEATS) / len(images)

    micro_batch = random_images(Cell(config, data).plan.largest_micro).requires_grad_()
    seconds = fastest(lambda: torch.autograd.backward(frozen(micro_batch).sum()), device, _REPEATS)
    return Rates(
        bank=fastest(lambda: torch.autograd.backward(bank().sum()), device, _REPEATS),
        image=seconds / len(micro_batch),
        surrogate=training_seconds(surrogate, config.surrogate.fit.batch),
        target=training_seconds(target, config.target.fit.batch),
    )


def _train_on(network: nn.Module, images: Tensor) -> None:
    labels = torch.zeros(len(images), dtype=torch.long, device=images.device)
    with autocast(images.device):
        logits = network(images)
    torch.autograd.backward(F.cross_entropy(logits.float(), labels))


def _seconds(cell: Cell, rates: Rates, new_surrogate: bool, new_arms: int) -> float:
    """Add up the parts of a cell, without what an earlier cell did for it."""
    config, plan = cell.config, cell.plan
    images, tests = len(cell.data.train), len(cell.data.test)
    # A forward pass takes about a third of a training step.
    target = config.target.fit.epochs * (images + tests / 3) * rates.target
    seconds = plan.steps * rates.bank + plan.images * rates.image
    if new_surrogate and config.surrogate.weights == "fit":
        seconds += config.surrogate.fit.epochs * images * rates.surrogate
    return seconds + new_arms * target
