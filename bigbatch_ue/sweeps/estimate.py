"""What the cells of a sweep will cost, from a short measurement on this machine."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from rich.table import Column, Table
from torch import nn

from bigbatch_ue.batching.plan import BatchPlan, even_sizes, make_plan
from bigbatch_ue.config.names import ArmName
from bigbatch_ue.config.schema import Config
from bigbatch_ue.data.decoded import DataSet
from bigbatch_ue.networks.backbone import NetworkSpec, build_network
from bigbatch_ue.networks.frozen import FrozenNetwork, compute_mode
from bigbatch_ue.networks.generator import GeneratorBank
from bigbatch_ue.sweeps.cells import Cell
from bigbatch_ue.sweeps.progress import format_duration

_SHARED = (ArmName.CLEAN, ArmName.RANDOM_NOISE)
_REPEATS = 2


@dataclass(frozen=True)
class Rates:
    """Seconds on this machine.

    Attributes:
        step: one pass of the generators, forward and backward.
        image: one image through the frozen surrogate, forward and to its input gradient.
        fitted: one image of the surrogate's own training.
        trained: one image of the target's training.
        tested: one image of its test.
    """

    step: float
    image: float
    fitted: float
    trained: float
    tested: float


def estimate(cells: Sequence[Cell]) -> dict[str, float]:
    """Expected seconds of each cell by its name, in the order in which they come.

    What several cells share (a fitted surrogate, clean controls) is counted with the first one.
    """
    rates: dict[str, Rates] = {}
    shared: set[tuple[str, int, str]] = set()
    costs = {}
    for cell in cells:
        config, data = cell.config, cell.data
        kind = config.model_dump_json(include={"data", "surrogate", "generator", "target"})
        if kind not in rates:
            rates[kind] = measure_rates(config, data)
        first = (data.fingerprint, config.seed, kind) not in shared
        shared.add((data.fingerprint, config.seed, kind))
        costs[cell.name] = _seconds(config, data, rates[kind], first)
    return costs


def plan_cell(cell: Cell) -> BatchPlan:
    """The batch plan of a cell in one process, with clusters of equal size."""
    images, p = len(cell.data.train), cell.config.clusters.count
    return make_plan(cell.config, even_sizes(images, p), 1)


def measure_rates(config: Config, data: DataSet) -> Rates:
    """Time a few passes of networks with random weights on the device that would be used."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    count, channels, size, _ = data.train.images.shape
    classes = max(len(data.classes), 2)
    p = config.clusters.count
    bank = GeneratorBank(p, channels, size, config.generator, config.seed).to(device)
    surrogate, fitted, target = (
        build_network(NetworkSpec(part.model, channels, size, part.args), heads)
        .to(device)
        .to(memory_format=torch.channels_last)
        for part, heads in (
            (config.surrogate, 0),
            (config.surrogate, classes),
            (config.target, classes),
        )
    )
    frozen = FrozenNetwork(surrogate, compute_mode(config.compute, device))

    def images(number: int) -> torch.Tensor:
        made = torch.rand(number, channels, size, size, device=device)
        return made.to(memory_format=torch.channels_last)

    micro = images(plan_cell(Cell(config, data)).largest_micro).requires_grad_()
    one = _timed(lambda: torch.autograd.backward(bank().sum()), device)
    passed = _timed(lambda: torch.autograd.backward(frozen(micro).sum()), device)
    own, theirs = (images(min(part.fit.batch, count)) for part in (config.surrogate, config.target))
    return Rates(
        step=one,
        image=passed / len(micro),
        fitted=_timed(lambda: _learn(fitted, own), device) / len(own),
        trained=_timed(lambda: _learn(target, theirs), device) / len(theirs),
        tested=_timed(lambda: _test(target, theirs), device) / len(theirs),
    )


def _seconds(config: Config, data: DataSet, rates: Rates, first: bool) -> float:
    plan = plan_cell(Cell(config, data))
    count, tests = len(data.train), len(data.test)
    settings, epochs = config.evaluation, config.target.fit.epochs
    target = epochs * (count * rates.trained + tests * rates.tested)
    own = [arm for arm in settings.arms if arm not in _SHARED]
    arms = len(own) * len(settings.fractions) + len(settings.countermeasures)
    seconds = plan.steps * (rates.step + plan.images_per_step * rates.image)
    seconds += len(settings.seeds) * target * arms
    if first:
        seconds += len(settings.seeds) * target * (len(settings.arms) - len(own))
        if config.surrogate.weights == "fit":
            seconds += config.surrogate.fit.epochs * count * rates.fitted
    return seconds


def _learn(model: nn.Module, images: torch.Tensor) -> None:
    model.train()
    labels = torch.zeros(len(images), dtype=torch.long, device=images.device)
    torch.autograd.backward(F.cross_entropy(model(images), labels))


def _test(model: nn.Module, images: torch.Tensor) -> None:
    model.eval()
    with torch.inference_mode():
        model(images)


def _timed(work: Callable[[], None], device: torch.device) -> float:
    """Seconds of the fastest of a few repetitions, after one to warm up."""
    seconds = []
    for _ in range(_REPEATS + 1):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


def cell_table(cells: Sequence[Cell]) -> Table:
    """Cells with what they would cost in one process on this machine, and which are done."""
    costs = estimate(cells)
    numbers = [Column(name, justify="right") for name in ("steps", "images a step", "time")]
    table = Table("cell", *numbers, "state")
    left = 0.0
    for cell in cells:
        plan, outcome = plan_cell(cell), cell.outcome()
        left += costs[cell.name] if outcome is None else 0
        row = (f"{plan.steps:,}", f"{plan.images_per_step:,}", format_duration(costs[cell.name]))
        table.add_row(cell.name, *row, outcome.state if outcome else "to do")
    table.caption = f"{len(cells)} cells; about {format_duration(left)} to do in one process"
    return table
