"""Links of two ranks, and predicted against measured steps of 1, 2 and 3 ranks; see ranks.sh."""

import statistics
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch
import torch.distributed as dist
from rich import box
from rich.console import Console
from rich.table import Table

from analysis.scaling.table import read_records
from bigbatch_ue.benchmark.step_time import Links, Pace, StepModel, StepWork
from bigbatch_ue.benchmark.timing import timed
from bigbatch_ue.files.formats import read_json, write_json
from bigbatch_ue.networks.sizes import generator_size
from bigbatch_ue.reporting.words import number
from bigbatch_ue.runtime.accelerator import start_accelerator
from bigbatch_ue.runtime.host import usable_cores

RANKS = (1, 2, 3)
SMALL, REPEATS = 16, 30
HEADS = ("ranks", "B", "predicted s", "of it sent", "measured s", "from", "to", "off %")


def steps(out: Path, ranks: int) -> pd.DataFrame:
    """Read the steps of `ranks` ranks."""
    return read_records([out / str(ranks)])[0]


def step_work(record: pd.Series) -> StepWork:
    """Return the work of a step of `bench`."""
    generator = generator_size(3, record["generator_width"], record["size"])
    sizes = (record["effective_batch"],) * record["clusters"]
    return StepWork(sizes, generator.parameters, record["micro_batch"])


def measure_links(out: Path) -> None:
    """Time all-reduces of two ranks: of a few numbers, and of as many as the gradient has."""
    work = step_work(steps(out, 1).iloc[0])
    payload = 4 * work.parameters * len(work.per_generator)
    accelerator = start_accelerator()
    seconds = {}
    for size in (SMALL, payload):
        reduction = partial(dist.all_reduce, torch.zeros(size // 4))
        times = []
        for _ in range(REPEATS):
            accelerator.wait_for_everyone()
            times.append(timed(reduction, accelerator.device)[1])
        seconds[size] = statistics.median(times)
    if accelerator.is_main_process:
        # two passes, each of one message, in which a rank sends half of the payload
        bandwidth = payload / (seconds[payload] - seconds[SMALL])
        write_json(out / "links.json", asdict(Links(bandwidth, bandwidth, seconds[SMALL] / 2)))
    accelerator.end_training()


def measured_pace(records: pd.DataFrame) -> Pace:
    """Solve the smallest and the largest step of one rank for an image and a generator.

    All micro-batches have the same size; the time that each takes is in that of its images.
    """
    medians = records.groupby("images")["step_s"].median()
    few, many = medians.index.min(), medians.index.max()
    image = (medians[many] - medians[few]) / (many - few)
    return Pace(image, 0.0, (medians[few] - few * image) / records["clusters"].iloc[0])


def slowdown(out: Path, processes: int) -> float:
    """Return how much longer a step takes while `processes` processes take such steps."""
    if processes == 1:
        return 1.0
    busy, alone = read_records(sorted((out / f"busy-{processes}").iterdir()))[0], steps(out, 1)
    same = alone["images"] == busy["images"].iloc[0]
    return float(busy["step_s"].median() / alone.loc[same, "step_s"].median())


def compare(out: Path) -> None:
    """Print predicted and measured steps."""
    links, pace = Links(**read_json(out / "links.json", dict)), measured_pace(steps(out, 1))
    cores, table = usable_cores(), Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for head in HEADS:
        table.add_column(head, justify="right")
    for ranks in RANKS:
        slower = Pace(*(slowdown(out, ranks) * seconds for seconds in asdict(pace).values()))
        shared = min(1, cores / ranks)  # a loopback is work of the cores
        busy = replace(links, inside=links.inside * shared)
        for batch, rows in steps(out, ranks).groupby("effective_batch"):
            step = StepModel(step_work(rows.iloc[0]), slower, busy, ranks).at(1)
            seconds = rows["step_s"]
            shown = (step.total, step.communication, seconds.median(), seconds.min(), seconds.max())
            off = f"{100 * (step.total / seconds.median() - 1):+.1f}"
            table.add_row(f"{ranks}", f"{batch:,}", *map(number, shown), off)
    console = Console()
    console.print(table)
    rate = f"{links.inside / 1e6:,.0f} MB/s, {links.latency * 1e6:,.0f} microseconds a message"
    console.print(f"links of two ranks: {rate}; {cores} cores")
    longer = ", ".join(f"{slowdown(out, ranks):.2f} times with {ranks}" for ranks in RANKS[1:])
    console.print(f"a step takes longer where several processes compute: {longer}")


if __name__ == "__main__":
    {"links": measure_links, "compare": compare}[sys.argv[1]](Path(sys.argv[2]))
