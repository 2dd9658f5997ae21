"""Kill points: runs and sweeps are killed at random moments, and must reach the same result.

Every stage is killed in one process and under a launcher of two ranks: either one rank, or all
ranks and the launcher. The command is then started again. Its perturbations, protected images and
predictions must equal those of an undisturbed run, to the last bit.
"""

import hashlib
import json
import random
import shutil
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from analysis.table.collect import collect
from bigbatch_ue.files.formats import read_json
from bigbatch_ue.files.tensor_files import read_tensors
from bigbatch_ue.reporting.words import counted
from tests.helpers.forked import Program
from tests.soak.fused import Fuse
from tests.soak.load import write_npz

RANKS = {
    "decoding": (1, 2),
    "clustering": (1, 2),
    "training": (1, 2),
    "protecting": (1,),
    "evaluating": (1, 2),
    "sweeping": (1,),
}
"""The stages, and the numbers of ranks that run them."""
COMMANDS = {
    "decoding": "train",
    "clustering": "train",
    "training": "train",
    "protecting": "protect",
    "evaluating": "evaluate",
}
"""The command that runs each stage of a run."""

_NET = {"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]}
_SETTINGS: dict[str, Any] = {
    "data": {"size": 8},
    "clusters": {"count": 3, "n_init": 1},
    "surrogate": {"model": "resnet18", "args": _NET, "weights": "fit", "fit": {"epochs": 1}},
    "generator": {"width": 4},
    "augment": {"pad": 1},
    "batch": {"effective": 8},
    "budget": {"kind": "steps", "steps": 60},
    "checkpoint": {"every": 4},
    "compute": {"precision": "float32"},
    "target": {"args": _NET, "fit": {"epochs": 3}},
    "evaluation": {"arms": ["clean", "random_noise", "uc"], "seeds": [0]},
}
_IMAGES = 1000
_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)


@dataclass(frozen=True)
class Point:
    """A kill point: at `moment`, from 0 to 1, of a stage that runs on `ranks` ranks."""

    stage: str
    ranks: int
    moment: float
    rank: int
    victims: str


def points(count: int, seed: int) -> list[Point]:
    """Draw `count` random points, with every stage and number of ranks equally often."""
    chance = random.Random(seed)
    cases = [(stage, ranks) for stage, several in RANKS.items() for ranks in several]
    chance.shuffle(cases)
    return [
        Point(*cases[n % len(cases)], chance.random(), chance.randrange(ranks), victims)
        for n in range(count)
        for ranks in [cases[n % len(cases)][1]]
        for victims in [chance.choice(["one", "all"])]
    ]


class Story:
    """Training, protection and evaluation on some ranks, and their undisturbed results.

    Args:
        folder: of the runs.
        ranks: number of ranks.
        stages: stages to disturb; commands that none of them needs are not run.
    """

    def __init__(self, folder: Path, ranks: int, stages: Set[str]) -> None:
        self.ranks, self.undisturbed = ranks, folder / f"undisturbed-{ranks}"
        self.undisturbed.mkdir()
        write_npz(self.undisturbed / "images.npz", _IMAGES)
        self.stages = self.undisturbed / "stages.jsonl"
        for command in ("train", *sorted({COMMANDS[stage] for stage in stages} - {"train"})):
            run_command(self, command, self.undisturbed, {"STAGES": str(self.stages)})
        lines = [json.loads(line) for line in self.stages.read_text().splitlines()]
        self.seconds = {stage: max(s for t, s in lines if t == stage) for stage, _ in lines}

    def before(self, stage: str, folder: Path) -> None:
        """Make `folder` as it is before the command that runs `stage`."""
        folder.mkdir()
        shutil.copy(self.undisturbed / "images.npz", folder)
        if stage in ("protecting", "evaluating"):
            for part in ("data", "run"):
                shutil.copytree(self.undisturbed / part, folder / part, symlinks=True)
            for later in ("evaluation", "protected"):
                shutil.rmtree(folder / "run" / later, ignore_errors=True)

    def command(self, name: str, program: str) -> list[str]:
        """Return what follows `python` to run the command `name` of the module `program`."""
        launcher = ["-m", "bigbatch_ue.launch", "--config_file", "launchers/accelerate/ddp.yaml"]
        many = self.ranks > 1 and name != "protect"
        start = [*launcher, "--main_process_port", "0"] if many else []
        return [*start, "-m", program, name]


def arguments_of(name: str, folder: Path) -> list[str]:
    """Return the arguments of `train`, `protect` or `evaluate`."""
    if name == "train":
        settings = folder / "settings.yaml"
        places = {"name": f"npz:{folder / 'images.npz'}", "root": str(folder / "data")}
        data = {**_SETTINGS["data"], **places}
        content = {**_SETTINGS, "data": data, "output": str(folder / "run")}
        settings.write_text(yaml.safe_dump(content))
        return ["--config", str(settings), "--resume"]
    return [str(folder / "run"), *(["--at", "training"] if name == "protect" else [])]


def run_command(
    story: Story, name: str, folder: Path, environment: dict[str, str] | None = None
) -> None:
    """Run the command `name`; with a `FUSE` in `environment`, until that kills it."""
    program = "bigbatch_ue" if environment is None else "tests.soak.fused"
    process = Program([*story.command(name, program), *arguments_of(name, folder)], environment)
    _, said = process.communicate(timeout=240)
    expected = _KILLED if "FUSE" in (environment or {}) else (0,)
    assert process.returncode in expected, f"{name}: {process.returncode}\n{said[-3000:]}"


def killed_and_continued(story: Story, point: Point, folder: Path) -> None:
    """Kill the command at `point`, start it again, and compare its results."""
    story.before(point.stage, folder)
    name = COMMANDS[point.stage]
    seconds = point.moment * story.seconds[point.stage]
    fuse = Fuse(point.stage, seconds, point.rank, point.victims)  # type: ignore[arg-type]
    run_command(story, name, folder, {"FUSE": json.dumps(asdict(fuse))})
    run_command(story, name, folder)
    ours, theirs = (results_of(name, each / "run") for each in (folder, story.undisturbed))
    assert ours == theirs, f"{name}: the results differ"


def results_of(name: str, run: Path) -> Any:
    """Read the results of `train`, `protect` or `evaluate`, in a form that can be compared."""
    if name == "train":
        tensors, _ = read_tensors(run / "perturbations.safetensors")
        lines = (run / "metrics.jsonl").read_text().splitlines()
        steps = [json.loads(line)["step"] for line in lines]
        return steps, {key: tensor.tolist() for key, tensor in tensors.items()}
    if name == "protect":
        files = [path for path in (run / "protected").rglob("*.npz") if path.is_file()]
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return _without(read_json(run / "evaluation" / "results.json"), "seconds")


def _without(content: Any, key: str) -> Any:
    if isinstance(content, dict):
        return {name: _without(value, key) for name, value in content.items() if name != key}
    return [_without(each, key) for each in content] if isinstance(content, list) else content


class SweepStory:
    """A sweep of two cells, and its undisturbed result."""

    def __init__(self, folder: Path) -> None:
        self.undisturbed = folder / "undisturbed-sweep"
        began = time.monotonic()
        process = self.start(self.undisturbed)
        self.wait_for_first_cell(self.undisturbed, process)
        self.first = time.monotonic() - began
        self.finish(process)
        self.seconds = time.monotonic() - began

    def start(self, folder: Path) -> Program:
        folder.mkdir(exist_ok=True)
        data = {"size": 8, "limit": 120, "root": str(folder / "data")}
        settings = {**_SETTINGS, "data": data, "budget": {"steps": 40}}
        settings["batch"] = {}
        settings["evaluation"] = {"arms": ["clean", "uc"]}
        content = {
            "output": str(folder / "sweep"),
            "datasets": ["digits"],
            "batches": [4, 16],
            "seeds": [0],
            "budgets": ["steps"],
            "settings": settings,
        }
        config = folder / "sweep.yaml"
        config.write_text(yaml.safe_dump(content))
        return Program(["-m", "bigbatch_ue", "sweep", "--config", str(config)])

    @staticmethod
    def wait_for_first_cell(folder: Path, process: Program) -> None:
        while not list((folder / "sweep" / "cells").glob("*/cell.yaml")):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.02)

    @staticmethod
    def finish(process: Program) -> None:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err

    def killed_and_continued(self, point: Point, folder: Path) -> None:
        process = self.start(folder)
        self.wait_for_first_cell(folder, process)
        time.sleep(point.moment * (self.seconds - self.first))
        process.kill()
        process.communicate()
        self.finish(self.start(folder))
        pd.testing.assert_frame_equal(self.table(folder), self.table(self.undisturbed))

    @staticmethod
    def table(folder: Path) -> pd.DataFrame:
        collection = collect([folder / "sweep"])
        assert collection.problems == ()
        return collection.table.drop(columns=["images_per_second", "peak_memory_mib"])


def run(count: int, seed: int, folder: Path, say: Callable[[str], None] = print) -> int:
    """Kill at `count` points in `folder`; return after how many of them the result was equal."""
    chosen = points(count, seed)
    stages: defaultdict[int, set[str]] = defaultdict(set)
    for point in chosen:
        if point.stage in COMMANDS:
            stages[point.ranks].add(point.stage)
    stories = {ranks: Story(folder, ranks, those) for ranks, those in stages.items()}
    sweep = SweepStory(folder) if any(point.stage == "sweeping" for point in chosen) else None
    recovered = 0
    for number, point in enumerate(chosen):
        own = folder / f"point-{number}"
        try:
            if point.stage == "sweeping" and sweep:
                sweep.killed_and_continued(point, own)
            else:
                killed_and_continued(stories[point.ranks], point, own)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            say(f"{point}: {error}")
        else:
            recovered += 1
            shutil.rmtree(own)
        say(f"kill point {number + 1} of {count}: {point.stage}, {counted(point.ranks, 'rank')}")
    return recovered
