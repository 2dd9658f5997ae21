"""The load test: memory and seconds of the real commands on a million images and a thousand runs.

    python -m tests.soak.load

It needs about 4 GB of disk in the temporary folder until it ends. It fails if the memory of `train`
or `protect` exceeds its bound; seconds are only printed.
"""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from io import BytesIO
from itertools import islice, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from bigbatch_ue.batching.plan import make_plan
from bigbatch_ue.clustering.clusters import Clusters
from bigbatch_ue.config.schema import Config
from bigbatch_ue.evaluation.arms import load_arms, save_arms
from bigbatch_ue.files.formats import digest, read_json
from bigbatch_ue.files.tensor_files import read_tensors, write_tensors
from bigbatch_ue.runs.folder import Run, load_run
from tests.helpers.runs import make_evaluated_run

IMAGES, RUNS, SIZE = 1_000_000, 1000, 28
BOUND = 300.0
"""MiB of anonymous memory above that of the idle program; a copy of the images would need 748."""

_CHUNK = 1000
_PER_SHARD = 10_000
_BATCHES = range(4, 44)
_IMPORT = "import bigbatch_ue.training.train, bigbatch_ue.protection.protect"
_TINY = (
    f"data.size={SIZE}",
    "clusters.count=2",
    "clusters.n_init=1",
    "clusters.minibatch_above=1000",
    "surrogate.weights=random",
    "surrogate.stem=standard",
    "surrogate.args={channels: [8, 8, 16, 16], layers: [1, 1, 1, 1]}",
    "generator.width=4",
    "batch.effective=64",
    "budget.steps=3",
    "compute.precision=float32",
)


def write_npz(path: Path, count: int) -> None:
    """Stream an npz of `count` random grey train images and 64 test images, of two classes."""
    random = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for part, images in (("train", count), ("test", 64)):
            header = {"descr": "|u1", "fortran_order": False, "shape": (images, SIZE, SIZE)}
            with archive.open(f"{part}_images.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array_header_1_0(entry, header)
                for start in range(0, images, _CHUNK):
                    entry.write(random.bytes(min(_CHUNK, images - start) * SIZE * SIZE))
            with archive.open(f"{part}_labels.npy", "w") as entry:
                labels = np.arange(images, dtype=np.uint8) % 2
                np.lib.format.write_array(entry, labels, allow_pickle=False)


def write_shards(folder: Path, count: int) -> None:
    """Write tar shards of `count` grey train images of 8 pixels and 64 test images, 2 classes."""
    folder.mkdir()
    random = np.random.default_rng(0)
    pictures = []
    for _ in range(_CHUNK):
        buffer = BytesIO()
        Image.fromarray(random.integers(256, size=(8, 8), dtype=np.uint8)).save(buffer, "PNG")
        pictures.append(buffer.getvalue())
    for part, images in (("train", count), ("test", 64)):
        for start in range(0, images, _PER_SHARD):
            with tarfile.open(folder / f"{part}-{start // _PER_SHARD:04d}.tar", "w") as tar:
                for index in range(start, min(start + _PER_SHARD, images)):
                    members = {"png": pictures[index % _CHUNK], "cls": b"%d" % (index % 2)}
                    for suffix, content in members.items():
                        info = tarfile.TarInfo(f"{index:07d}.{suffix}")
                        info.size = len(content)
                        tar.addfile(info, BytesIO(content))
                    tar.members.clear()


def train_command(place: Path) -> list[str]:
    """Return the command that trains a few steps on an npz file or a folder of shards.

    All its output goes beside that place.
    """
    kind = "npz" if place.suffix == ".npz" else "wds"
    places = [f"data.name={kind}:{place}", f"data.root={place.parent}", f"output={run_of(place)}"]
    return ["train", "--preset", "small", *_TINY, *places]


def run_of(place: Path) -> Path:
    """Return the folder of the run that `train_command` makes."""
    return place.with_name(f"run-{place.stem}")


def anonymous_peaks(
    arguments: Sequence[str], phase: Callable[[], str] = lambda: "all"
) -> dict[str, float]:
    """Measure the peak of anonymous memory, in MiB, of a Python process in each of its phases."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, *arguments], env=environment)
    peaks: dict[str, float] = {}
    while process.poll() is None:
        now = phase()
        status = Path(f"/proc/{process.pid}/status").read_text()
        found = re.search(r"RssAnon:\s+(\d+) kB", status)  # not there once it has ended
        peaks[now] = max(peaks.get(now, 0.0), int(found[1]) / 1024 if found else 0.0)
        time.sleep(0.003)
    assert process.returncode == 0, arguments
    return peaks


def record_runs(real: Path, folder: Path, count: int) -> None:
    """Write copies of the records of a finished and evaluated run, at other B and other seeds.

    The run must have `budget.kind=steps`, and `batch.extend=views`, so that every B is possible.
    """
    config, run = load_run(real)
    clusters = Clusters.load(run.clusters)
    perturbations, about = read_tensors(run.perturbations)
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    result, data = read_json(run.result), read_json(real / "run.json")["data"]
    arms = load_arms(real / "evaluation" / "results.json")
    for number, other in enumerate(islice(_varied(config), count)):
        own = Run(folder / f"run-{number:04d}", digest([other.answer(), data]))
        plan = make_plan(other, clusters.sizes.tolist(), 1)
        (own.folder / "evaluation").mkdir(parents=True)
        _write(own.folder / "run.json", {"answer": own.answer, "data": data})
        other.save(own.folder / "config.yaml")
        clusters.save(own.clusters, {"answer": own.answer})
        write_tensors(own.perturbations, perturbations, about | {"answer": own.answer})
        passes = [line | {"images_seen": plan.images_before(n)} for n, line in enumerate(lines, 1)]
        own.metrics.write_text("".join(json.dumps(line) + "\n" for line in passes))
        batch = {
            "requested_batch": plan.requested,
            "effective_batch": plan.effective,
            "effective_batch_per_generator": plan.per_generator,
            "images_seen": plan.images,
        }
        _write(own.result, result | batch | {"seed": other.seed})
        facts = {"run_seed": other.seed, "effective_batch": plan.effective}
        varied = [replace(arm, **facts) if arm.run_seed is not None else arm for arm in arms]
        save_arms(own.folder / "evaluation" / "results.json", varied)


def _varied(config: Config) -> Iterator[Config]:
    for seed, effective in product(range(RUNS), _BATCHES):
        batch = config.batch.model_copy(update={"effective": effective})
        yield config.model_copy(update={"batch": batch, "seed": seed, "output": None})


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def _images(folder: Path) -> None:
    """Train on `IMAGES` images of an npz file, and protect them."""
    npz = folder / "images.npz"
    write_npz(npz, IMAGES)
    print(f"{IMAGES:,} images of {SIZE} px: {IMAGES * SIZE**2 / 2**20:,.0f} MiB", flush=True)
    _measure(npz)


def _shards(folder: Path) -> None:
    """Train on `IMAGES` images of tar shards, which several processes decode; protect them."""
    place = folder / "shards"
    write_shards(place, IMAGES)
    print(f"{IMAGES:,} images in {len(list(place.iterdir()))} shards", flush=True)
    _measure(place)


def _measure(place: Path) -> None:
    """Run the commands, and print their memory and time."""
    idle = anonymous_peaks(["-c", _IMPORT])["all"]
    for command in (train_command(place), ["protect", str(run_of(place)), "--at", "training"]):
        began = time.perf_counter()
        above = anonymous_peaks(["-m", "bigbatch_ue", *command])["all"] - idle
        seconds = time.perf_counter() - began
        print(f"{command[0]}: {above:,.0f} MiB above {idle:,.0f}, {seconds:,.0f} s", flush=True)
        assert above < BOUND, f"{command[0]}: more than {BOUND:,.0f} MiB"


def _runs(folder: Path) -> None:
    """Collect `RUNS` runs."""
    real = make_evaluated_run(folder, "real", "budget.kind=steps", "budget.steps=60")
    record_runs(real, folder / "runs", RUNS)
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        command = [sys.executable, "-m", "analysis", "collect", str(folder / "runs")]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds.append(time.perf_counter() - began)
        shutil.rmtree(folder / "runs" / "analysis")
    print(
        f"{done.stdout.strip().splitlines()[0]}; {statistics.median(seconds):.1f} s (median of 3)"
    )


if __name__ == "__main__":
    for measure in (_runs, _images, _shards):
        with TemporaryDirectory(prefix="load-") as temporary:
            measure(Path(temporary))
