"""Measure speed, memory and traffic of optimizer steps; `python -m analysis scaling` reads it.

One process, then two ranks under an engine, into one folder:

    bigbatch-ue bench --preset pets --batch 256 --micro 8 --out runs/bench
    accelerate launch --config_file launchers/accelerate/zero2.yaml -m bigbatch_ue bench ...

Cases take turns, once a round, so that other load on the machine affects all cases alike.
"""

import json
import uuid
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from bigbatch_ue.benchmark.cases import (
    CHANNELS,
    BenchmarkCase,
    MicroBatchSize,
    Step,
    Workload,
    new_step,
)
from bigbatch_ue.benchmark.target import TargetCase
from bigbatch_ue.benchmark.timing import Measurement, matmul_peak, measure_step
from bigbatch_ue.benchmark.traffic import count_traffic
from bigbatch_ue.clustering.resolve import without_labels
from bigbatch_ue.config.names import MeasuredPath
from bigbatch_ue.config.schema import Config
from bigbatch_ue.networks.frozen import allow_tf32, compute_mode
from bigbatch_ue.networks.inference import precision_of_training
from bigbatch_ue.runtime.accelerator import engine_name, start_accelerator
from bigbatch_ue.runtime.device import device_name, has_bf16
from bigbatch_ue.runtime.memory import keep_freed_memory, return_freed_memory
from bigbatch_ue.runtime.progress import progress
from bigbatch_ue.training.requirements import count_flops

RECORDS = "records.jsonl"


def bench(
    config: Config,
    *,
    batches: Sequence[int],
    micros: Sequence[MicroBatchSize],
    paths: Sequence[MeasuredPath],
    rounds: int,
    at_most: int | None,
    out: Path,
    say: Callable[[str], None],
) -> Path:
    """Measure every path at every effective batch and micro-batch, `rounds` times in turn.

    Args:
        config: the training to measure; its batch section is replaced.
        batches: effective batches B.
        micros: maximum numbers of images in a micro-batch.
        paths: gradient paths, the baseline, and the training of the target, which is measured once
            a round, whatever the batches.
        rounds: repetitions of each case.
        at_most: maximum number of micro-batches of a step that are measured on the `engine` and
            `baseline` paths, which pass the generators for each of them; the time of the whole
            step is extrapolated.
        out: folder to whose `records.jsonl` the results are appended.
        say: takes a line about each repetition.

    Returns:
        The path of `records.jsonl`.
    """
    accelerator = start_accelerator()
    try:
        session = Session(accelerator, without_labels(config), at_most)
        steps = [path for path in paths if path is not MeasuredPath.TARGET]
        cases: list[BenchmarkCase | TargetCase] = [
            session.workload.case(*each) for each in product(batches, micros, steps)
        ]
        if MeasuredPath.TARGET in paths:
            cases.append(TargetCase(session.config, CHANNELS, accelerator.device))
        common = session.common_fields()
        out.mkdir(parents=True, exist_ok=True)
        with progress("measuring", "cases", rounds * len(cases), kept=True) as stage:
            for number, case in product(range(rounds), cases):
                stage.remark = str(case)
                record = {**common, "round": number, **session.record(case)}
                stage.advance()
                if accelerator.is_main_process:
                    with (out / RECORDS).open("a") as file:
                        file.write(json.dumps(record) + "\n")
                    say(
                        f"{case}: {record['images_per_s']:,.1f} images/s, "
                        f"{record['step_s']:,.2f} s a step"
                    )
        return out / RECORDS
    finally:
        accelerator.end_training()


class Session:
    """The measurements of one launch of the program.

    Args:
        accelerator: from `start_accelerator`.
        config: the training to measure.
        at_most: as for `bench`.
    """

    def __init__(self, accelerator: Accelerator, config: Config, at_most: int | None) -> None:
        self.accelerator, self.config, self.at_most = accelerator, config, at_most
        self.mode = compute_mode(config.compute, accelerator.device)
        allow_tf32(self.mode)
        keep_freed_memory()
        self.workload = Workload(accelerator, config)
        self.flops = count_flops(config, CHANNELS)
        self._bytes: dict[tuple[MeasuredPath, int, int | None], int] = {}

    def common_fields(self) -> dict[str, Any]:
        """Return what all records of the session share; a collective call."""
        device, config = self.accelerator.device, self.config
        dtype = torch.bfloat16 if has_bf16(device) else torch.float32
        peak = torch.tensor(matmul_peak(device, dtype), dtype=torch.float64, device=device)
        return {
            "session": uuid.uuid4().hex[:8],
            "device": device_name(device),
            "engine": engine_name(self.accelerator),
            "ranks": self.accelerator.num_processes,
            "size": config.data.size,
            "clusters": config.clusters.generators,
            "generator_width": config.generator.width,
            "peak_flops": float(self.accelerator.reduce(peak, "sum")),
        }

    def record(self, case: BenchmarkCase | TargetCase) -> dict[str, Any]:
        """Measure one repetition of `case`; a collective call."""
        if isinstance(case, TargetCase):
            ranks, device = self.accelerator.num_processes, self.accelerator.device
            model, precision = self.config.target.model, precision_of_training(device)
            images, flops, bytes_per_step = ranks * case.images, ranks * case.flops, 0.0
        else:
            on_baseline = case.path is MeasuredPath.BASELINE
            model = self.config.surrogate.model
            precision = "float32" if on_baseline else self.mode.precision
            images, bytes_per_step = case.images, self.bytes_per_step(case)
            flops = images * self.flops.image
            flops += self.config.clusters.generators * self.flops.generator
        measured = self.measure(case)
        self.release_memory()
        return {
            "path": case.path,
            "model": model,
            "precision": precision,
            "effective_batch": case.effective_batch,
            "micro_batch": case.micro_batch,
            "images": images,
            "timed_images": measured.images,
            "step_s": measured.seconds * images / measured.images,
            "images_per_s": measured.images / measured.seconds,
            "model_flops": flops,
            "peak_memory_mib": measured.peak_memory_mib,
            "bytes_per_step": bytes_per_step,
        }

    def measure(self, case: BenchmarkCase | TargetCase) -> Measurement:
        """Measure a step of `case`, or part of it, after a warm-up; a collective call."""
        step: Step
        if isinstance(case, TargetCase):
            step = case
        else:
            whole = case.path is MeasuredPath.DELTA
            step = new_step(self.workload, case, None if whole else self.at_most)
        step.warm_up()
        return measure_step(self.accelerator, step)

    def bytes_per_step(self, case: BenchmarkCase) -> float:
        """Return the bytes that a rank sends in a step of `case`; a collective call.

        On the engine path they are linear in the number of micro-batches, and measured with one
        and with two.
        """
        if self.accelerator.num_processes == 1:
            return 0.0
        if case.path is MeasuredPath.BASELINE:
            return self._count_bytes(case, None)
        one = self._count_bytes(case, 1)
        if case.path is MeasuredPath.DELTA:
            return one
        return one + (case.job.plan.micro_batches - 1) * (self._count_bytes(case, 2) - one)

    def _count_bytes(self, case: BenchmarkCase, at_most: int | None) -> int:
        """Count the bytes that a rank sends in a step of at most `at_most` micro-batches."""
        key = (case.path, case.job.plan.largest_micro, at_most)
        if key not in self._bytes:
            self._bytes[key] = self._bytes_of_second_step(case, at_most)
            self.release_memory()
        return self._bytes[key]

    def _bytes_of_second_step(self, case: BenchmarkCase, at_most: int | None) -> int:
        step = new_step(self.workload, case, at_most)
        step()  # the first step also sets up the engine
        with count_traffic() as traffic:
            step()
        return traffic.bytes_sent

    def release_memory(self) -> None:
        """Return freed memory, to the system too, so that it is not in the next case's peak."""
        self.accelerator.free_memory()
        return_freed_memory()
