"""Steps on whole machines, estimated: weak and strong scaling as a figure and a table."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from analysis.views.panels import (
    COLOURS,
    GREY,
    LINES,
    RC,
    WIDTH,
    annotate,
    create_panels,
    legend,
    legend_entry,
    write_figures,
)
from bigbatch_ue.batching.plan import DEFAULT_MICRO_BATCH
from bigbatch_ue.batching.step_plan import even_sizes
from bigbatch_ue.benchmark.machines import (
    MACHINES,
    MEASURED_GENERATOR,
    MEASURED_SURROGATE,
    Machine,
    MachineName,
)
from bigbatch_ue.benchmark.step_time import StepModel, StepTime, StepWork, fewest_nodes
from bigbatch_ue.reporting.words import number, percent

GENERATORS = 10
"""Generators of the bank, and rank groups of the curves that have them."""
MICRO = DEFAULT_MICRO_BATCH["cuda"]
IMAGES_PER_GPU, IMAGES_PER_STEP = MICRO, 65_536
"""Images through the surrogate: of a GPU under weak scaling, of a step under strong scaling."""
TABLE_NODES = 64
_TICKS = [8, 64, 512, 4_096, 32_768]
_LABELS = {
    MachineName.FRONTIER: "Frontier",
    MachineName.H100: "nodes of H100",
    MachineName.SUMMIT: "Summit",
}
_TENTH = 10
_ENDS = {"marker": "o", "ms": 4, "markevery": [0, -1]}
_GROUPS = {1: LINES[0], GENERATORS: LINES[1]}


@dataclass(frozen=True)
class Scaling:
    """A way to use more GPUs.

    Attributes:
        title: of a panel.
        images: images of a step on a number of GPUs.
    """

    title: str
    images: Callable[[int], int]


SCALINGS = (
    Scaling(f"weak scaling: {IMAGES_PER_GPU:,} images a GPU", lambda gpus: IMAGES_PER_GPU * gpus),
    Scaling(f"strong scaling: {IMAGES_PER_STEP:,} images a step", lambda _: IMAGES_PER_STEP),
)


@dataclass(frozen=True)
class Point:
    """A step of `images` on `gpus` GPUs."""

    gpus: int
    images: int
    step: StepTime

    @property
    def images_per_s(self) -> float:
        """Images per second, over all GPUs."""
        return self.images / self.step.total


def estimate(machine: Machine, scaling: Scaling, nodes: int, groups: int = 1) -> Point:
    """Estimate a step on `nodes` nodes under DDP, of the networks that were measured."""
    gpus = nodes * machine.gpus
    images = scaling.images(gpus)
    sizes = tuple(even_sizes(images, GENERATORS))
    work = StepWork(sizes, MEASURED_GENERATOR.parameters, MICRO)
    pace = machine.gpu.pace(MEASURED_SURROGATE, MEASURED_GENERATOR)
    model = StepModel(work, pace, machine.links, machine.gpus, groups)
    return Point(gpus, images, model.at(nodes))


def curve(machine: Machine, scaling: Scaling, groups: int) -> Iterator[Point]:
    """Estimate steps on more and more nodes, up to all that make whole rank groups."""
    smallest = fewest_nodes(groups, machine.gpus)
    doubled = (smallest * 2**power for power in range(machine.nodes.bit_length()))
    most = machine.nodes // smallest * smallest
    for nodes in (*takewhile(lambda count: count < most, doubled), most):
        yield estimate(machine, scaling, nodes, groups)


def plot_machines(folder: Path) -> list[Path]:
    """Write the figure as PNG and SVG, and return their paths."""
    return write_figures({"machines": machines_figure()}, folder)


@mpl.rc_context(RC)
def machines_figure() -> Figure:
    """Draw images per second of a GPU, and the part of a step that communicates, against GPUs.

    The colour stands for the machine, a broken line for as many rank groups as generators. A curve
    goes from the fewest nodes that make whole groups to the most of the machine.
    """
    figure, grid = create_panels(2 * WIDTH + 0.2, 5.6, 2, [1.2, 1])
    for scaling, (speed, communication) in zip(SCALINGS, grid.T, strict=True):
        for name, colour in zip(MACHINES, COLOURS, strict=False):
            for groups, line in _GROUPS.items():
                points = list(curve(MACHINES[name], scaling, groups))
                gpus = [point.gpus for point in points]
                style: dict[str, Any] = {"color": colour, "ls": line, "lw": 1.6} | _ENDS
                speed.plot(gpus, [point.images_per_s / point.gpus for point in points], **style)
                shares = [100 * point.step.communication / point.step.total for point in points]
                communication.plot(gpus, shares, **style)
        speed.set_title(scaling.title)
        _label(speed, communication)
    grid[0, 0].set_ylabel("images per second of a GPU")
    grid[1, 0].set_ylabel("communication, % of a step")
    figure.suptitle("Expected: ResNet-50, 224 px, 10 generators of width 64", weight="bold")
    entries = [
        legend_entry(_LABELS[name], color=colour, ls="-", lw=3)
        for name, colour in zip(MACHINES, COLOURS, strict=False)
    ]
    entries += [
        legend_entry("DDP" if groups == 1 else f"DDP, {groups} rank groups", ls=line, lw=1.6)
        for groups, line in _GROUPS.items()
    ]
    legend(figure, entries, len(entries))
    return figure


def _label(speed: Axes, communication: Axes) -> None:
    speed.set_yscale("log")
    speed.yaxis.set_major_formatter("{x:,g}")
    communication.set_xscale("log", base=2)
    communication.set_xticks(_TICKS, [f"{tick:,}" for tick in _TICKS])
    communication.minorticks_off()
    communication.set_xlim(5, 110_000)
    communication.set_ylim(0, 1.25 * _TENTH)
    communication.axhline(_TENTH, color=GREY, lw=0.9, ls=LINES[3])
    annotate(communication, "a tenth", (5.5, _TENTH), (0, 3), color=GREY)
    communication.set_xlabel("GPUs")


def machines_table() -> Table:
    """Return a table of one node, some nodes and each whole machine, for 80 columns."""
    table = Table(
        title="Expected under DDP: ResNet-50, 224 px, 10 generators",
        caption=f"weak: {IMAGES_PER_GPU:,} images a GPU; strong: {IMAGES_PER_STEP:,} images a "
        "step; com.: communication, % of the step",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    table.add_column("machine")
    of_each = [f"{way}\n{what}" for way in ("weak", "strong") for what in ("s", "images/s", "com.")]
    for head in ("nodes", "GPUs", *of_each):
        table.add_column(head, justify="right", vertical="bottom")
    for name, machine in MACHINES.items():
        for nodes in (1, TABLE_NODES, machine.nodes):
            points = [estimate(machine, scaling, nodes) for scaling in SCALINGS]
            cells = [cell for point in points for cell in _cells(point)]
            table.add_row(name if nodes == 1 else "", f"{nodes:,}", f"{points[0].gpus:,}", *cells)
        table.add_section()
    return table


def _cells(point: Point) -> list[str]:
    share = percent(point.step.communication / point.step.total)
    return [number(point.step.total), number(point.images_per_s), share]
