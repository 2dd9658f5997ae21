"""Measure speed, memory, energy and traffic of optimizer steps; `python -m analysis scaling` reads.

One process, then two ranks under an engine, into one folder:

    bigbatch-ue bench --preset pets --batch 256 --micro 8 --out runs/bench
    accelerate launch --config_file launchers/accelerate/zero2.yaml -m bigbatch_ue bench ...

Cases take turns, once a round, so that whatever else the machine does meets all of them. Images and
weights are random: what a step costs does not depend on them.
"""

import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from bigbatch_ue.batching.loader import MicroBatch
from bigbatch_ue.batching.micro_batch import gradient_fits
from bigbatch_ue.batching.plan import make_plan
from bigbatch_ue.batching.sampler import Sampler
from bigbatch_ue.benchmark.baseline import Files, baseline_step, unfrozen
from bigbatch_ue.benchmark.energy import energy
from bigbatch_ue.benchmark.traffic import count_traffic
from bigbatch_ue.config.load import resolve
from bigbatch_ue.config.names import GradientPath
from bigbatch_ue.config.schema import Config
from bigbatch_ue.networks.backbone import build_network
from bigbatch_ue.networks.frozen import allow_tf32, compute_mode
from bigbatch_ue.networks.generator import GeneratorBank
from bigbatch_ue.networks.surrogate import surrogate_spec
from bigbatch_ue.runtime.accelerator import engine_name, start_accelerator
from bigbatch_ue.runtime.console import progress_bar
from bigbatch_ue.runtime.device import device_name, has_bf16, matmul_peak, synchronise
from bigbatch_ue.runtime.memory import (
    keep_freed_memory,
    peak_memory,
    reset_peak_memory,
    return_freed_memory,
)
from bigbatch_ue.training.clusters import Clusters
from bigbatch_ue.training.engine import Engine
from bigbatch_ue.training.gradient import delta_step, engine_step
from bigbatch_ue.training.loop import TrainingJob
from bigbatch_ue.training.objective import ClusterwiseLoss
from bigbatch_ue.training.requirements import count_flops
from bigbatch_ue.training.setup import choose_micro_batch, make_job

RECORDS = "records.jsonl"
_PER_CLUSTER = 32


@dataclass(frozen=True)
class BenchmarkCase:
    """A gradient path at an effective batch, in micro-batches of the job's plan."""

    path: GradientPath
    job: TrainingJob

    def __str__(self) -> str:
        plan = self.job.plan
        return f"{self.path}, B = {plan.effective:,}, micro-batch {plan.largest_micro}"


@dataclass(frozen=True)
class Measurement:
    """What one repetition of a case took on all ranks together."""

    seconds: float
    images: int
    peak_memory_mib: float
    joules: float | None


def bench(
    config: Config,
    *,
    batches: Sequence[int],
    micros: Sequence[int | Literal["auto"]],
    paths: Sequence[GradientPath],
    rounds: int,
    at_most: int | None,
    out: Path,
    say: Callable[[str], None],
) -> Path:
    """Measure every path at every effective batch and micro-batch, `rounds` times in turn.

    Args:
        config: what is trained; its batch section is replaced.
        batches: effective batches B.
        micros: most images in one pass.
        paths: gradient paths, and the baseline.
        rounds: repetitions of each case.
        at_most: the paths that pass the generators for every micro-batch, `engine` and `baseline`,
            stop after so many of them, and the step's time is that many times longer.
        out: folder to whose `records.jsonl` the results are appended.
        say: takes a line about each repetition.

    Returns:
        The file of records.
    """
    accelerator = start_accelerator()
    try:
        return Session(accelerator, config, at_most).run(
            list(product(batches, micros, paths)), rounds, out, say
        )
    finally:
        accelerator.end_training()


class Session:
    """Networks and images that all cases of a session share."""

    def __init__(self, accelerator: Accelerator, config: Config, at_most: int | None) -> None:
        self.accelerator, self.device = accelerator, accelerator.device
        self.config, self.at_most = config, at_most
        self.way = compute_mode(config.compute, self.device)
        allow_tf32(self.way)
        keep_freed_memory()
        channels, size, p = 3, config.data.size, config.clusters.count
        random = np.random.default_rng(0)
        shape = (_PER_CLUSTER * p, channels, size, size)
        self.images: NDArray[np.uint8] = random.integers(256, size=shape, dtype=np.uint8)
        torch.manual_seed(0)
        spec = surrogate_spec(config.surrogate, channels, size)
        surrogate = build_network(spec, 0).to(self.device)
        with torch.inference_mode():
            features = surrogate.eval()(torch.rand(2, channels, size, size, device=self.device))
        self.clusters = Clusters(
            assignment=torch.arange(len(self.images)) % p,
            centres=torch.rand(p, features.shape[1]),
            permutation=torch.arange(p).roll(1),
        )
        self.job = make_job(config, self.images, surrogate, self.clusters, accelerator)
        self.files = Files(self.images, self.device)
        self.unfrozen = ClusterwiseLoss(
            unfrozen(surrogate),
            self.clusters.targets.to(self.device),
            config.objective,
            config.augment,
        )
        self.traffic: dict[tuple[str, int, int], float] = {}

    def run(
        self,
        wanted: list[tuple[int, int | Literal["auto"], GradientPath]],
        rounds: int,
        out: Path,
        say: Callable[[str], None],
    ) -> Path:
        """Measure the `wanted` (B, micro-batch, path), and append to the records of `out`."""
        cases = [self.case(*each) for each in wanted]
        about = self.about()
        out.mkdir(parents=True, exist_ok=True)
        with progress_bar() as progress:
            bar = progress.add_task("measuring", total=rounds * len(cases))
            for number, case in product(range(rounds), cases):
                progress.update(bar, description=str(case))
                record = {**about, "round": number, **self.record(case)}
                progress.advance(bar)
                if self.accelerator.is_main_process:
                    with (out / RECORDS).open("a") as file:
                        file.write(json.dumps(record) + "\n")
                    say(
                        f"{case}: {record['images_per_s']:,.1f} images/s, "
                        f"{record['step_s']:,.2f} s a step"
                    )
        return out / RECORDS

    def about(self) -> dict[str, Any]:
        """What all records of this session have in common; a collective call."""
        dtype = torch.bfloat16 if has_bf16(self.device) else torch.float32
        peak = torch.tensor(matmul_peak(self.device, dtype), dtype=torch.float64)
        config = self.config
        return {
            "session": uuid.uuid4().hex[:8],
            "device": device_name(self.device),
            "engine": engine_name(self.accelerator),
            "ranks": self.accelerator.num_processes,
            "model": config.surrogate.model,
            "size": config.data.size,
            "clusters": config.clusters.count,
            "generator_width": config.generator.width,
            "peak_flops": float(self.accelerator.reduce(peak.to(self.device), "sum")),
        }

    def case(
        self, effective: int, micro: int | Literal["auto"], path: GradientPath
    ) -> BenchmarkCase:
        """A case that fits into memory; a collective call."""
        batch = {
            "effective": effective,
            "micro": micro,
            "accumulation": "engine" if path is GradientPath.ENGINE else "delta",
            "extend": "views",
        }
        config = resolve(Config, self.config.model_dump(mode="json") | {"batch": batch}, ())
        plan = make_plan(config, self.clusters.sizes.tolist(), self.accelerator.num_processes)
        sampler = Sampler.of_clusters(
            self.clusters.assignment.numpy(),
            plan.per_generator,
            config.batch,
            config.seed,
            config.augment,
        )
        job = replace(self.job, config=config, plan=plan, sampler=sampler)
        return BenchmarkCase(path, choose_micro_batch(job, self.accelerator))

    def record(self, case: BenchmarkCase) -> dict[str, Any]:
        """One repetition of `case`."""
        plan, p = case.job.plan, self.config.clusters.count
        sent = self.bytes_sent(case)
        measured = (
            self.measure_baseline(case)
            if case.path is GradientPath.BASELINE
            else self.measure(case)
        )
        scale = plan.images_per_step / measured.images
        flops = count_flops(self.config, self.images.shape[1])
        return {
            "path": case.path,
            "precision": "float32" if case.path is GradientPath.BASELINE else self.way.precision,
            "effective_batch": plan.effective,
            "micro_batch": plan.largest_micro,
            "images": plan.images_per_step,
            "timed_images": measured.images,
            "step_s": measured.seconds * scale,
            "images_per_s": measured.images / measured.seconds,
            "model_flops": plan.images_per_step * flops.image + p * flops.generator,
            "peak_memory_mib": measured.peak_memory_mib,
            "bytes_per_step": sent,
            "energy_j": None if measured.joules is None else measured.joules * scale,
        }

    def measure(self, case: BenchmarkCase) -> Measurement:
        """One repetition of the program's own paths."""
        whole = case.path is GradientPath.DELTA or self.at_most is None
        count = case.job.plan.micro_batches
        if not whole and self.at_most is not None:
            count = min(count, self.at_most)
        engine = self.engine(case, count)
        first = next(self.micros(case, 1))
        gradient_fits(lambda delta: self.job.loss(delta, first), engine.current_perturbations())
        if case.path is GradientPath.DELTA:
            self.step(case, engine, 1)
        measured = self.timed(lambda: self.step(case, engine, count))
        self.forget(engine)
        return measured

    def measure_baseline(self, case: BenchmarkCase) -> Measurement:
        """One repetition of the baseline."""
        step = self.baseline(case)
        step(1)
        measured = self.timed(lambda: step(self.at_most))
        self.forget()
        return measured

    def baseline(self, case: BenchmarkCase) -> Callable[[int | None], int]:
        """New generators in the baseline's way; takes at most so many micro-batches a step."""
        bank = self.bank()
        optimizers = [
            torch.optim.Adam(generator.parameters(), lr=1e-4) for generator in bank.generators
        ]
        batch, micro = case.job.sampler.draw(0), case.job.plan.largest_micro

        def step(at_most: int | None) -> int:
            return baseline_step(
                self.accelerator,
                bank,
                optimizers,
                self.unfrozen,
                self.files,
                batch,
                micro,
                at_most,
            )

        return step

    def timed(self, step: Callable[[], int]) -> Measurement:
        """Time `step`, which returns this rank's images, on all ranks together."""
        gather = self.accelerator.gather
        self.accelerator.wait_for_everyone()
        reset_peak_memory(self.device)
        joules = energy(self.device)
        began = time.perf_counter()
        images = step()
        synchronise(self.device)
        seconds = time.perf_counter() - began
        after = energy(self.device)
        used = -1.0 if joules is None or after is None else after - joules
        facts = torch.tensor(
            [[seconds, images, peak_memory(self.device), used]],
            dtype=torch.float64,
            device=self.device,
        )
        all_ranks = gather(facts)
        on_gpu = self.device.type == "cuda"
        spent = float(all_ranks[:, 3].sum() if on_gpu else all_ranks[:, 3].max())
        return Measurement(
            seconds=float(all_ranks[:, 0].max()),
            images=int(all_ranks[:, 1].sum()),
            peak_memory_mib=float(all_ranks[:, 2].max()),
            joules=spent if spent > 0 else None,
        )

    def bytes_sent(self, case: BenchmarkCase) -> float:
        """Bytes that a rank sends in a step of `case`.

        Those of accumulation through the engine are linear in the number of micro-batches, and
        measured with one and with two.
        """
        if self.accelerator.num_processes == 1:
            return 0.0
        if case.path is not GradientPath.ENGINE:
            return self.counted(case, 1)
        one, two = self.counted(case, 1), self.counted(case, 2)
        return one + (case.job.plan.micro_batches - 1) * (two - one)

    def counted(self, case: BenchmarkCase, count: int) -> float:
        """Bytes that a rank sends in a step of `count` micro-batches."""
        key = (case.path, case.job.plan.largest_micro, count)
        if key not in self.traffic:
            step: Callable[[], int]
            if case.path is GradientPath.BASELINE:
                step = partial(self.baseline(case), None)
            else:
                step = partial(self.step, case, self.engine(case, count), count)
            step()  # also sets up
            with count_traffic() as traffic:
                step()
            self.forget()
            self.traffic[key] = traffic.bytes_sent
        return self.traffic[key]

    def step(self, case: BenchmarkCase, engine: Engine, count: int) -> int:
        """A step with this rank's first `count` micro-batches; returns its images."""
        images = 0

        def counted(micros: Iterator[MicroBatch]) -> Iterator[MicroBatch]:
            nonlocal images
            for micro in micros:
                images += len(micro)
                yield micro

        take = delta_step if case.path is GradientPath.DELTA else engine_step
        take(engine, self.job.loss, counted(self.micros(case, count)), self.config.optimizer.lr)
        return images

    def micros(self, case: BenchmarkCase, count: int) -> Iterator[MicroBatch]:
        """This rank's first `count` micro-batches."""
        job = case.job
        parts = job.plan.micro_slices(self.accelerator.process_index)
        return job.loader(job.sampler.draw(0), list(islice(parts, count)))

    def engine(self, case: BenchmarkCase, count: int) -> Engine:
        """New generators under the launcher's engine, for steps of `count` micro-batches."""
        accumulation = 1 if case.path is GradientPath.DELTA else count
        return Engine(self.accelerator, self.bank(), self.config.optimizer, accumulation)

    def bank(self) -> GeneratorBank:
        """New generators, not wrapped."""
        _, channels, size, _ = self.images.shape
        config = self.config
        bank = GeneratorBank(config.clusters.count, channels, size, config.generator, config.seed)
        return bank.to(self.device)

    def forget(self, *held: object) -> None:
        """Give memory back, to the system too, so that the next case's peak is its own."""
        self.accelerator.free_memory(*held)
        return_freed_memory()
