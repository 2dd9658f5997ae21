"""What stays as it is while modules move: names, defaults, digests, exit codes, files, keys, tags.

`golden.json` says how all of it was. What is changed on purpose is recorded again with

    python -m tests.repository.test_golden

and seen in the difference that git shows.
"""

import contextlib
import difflib
import io
import json
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from enum import EnumType
from pathlib import Path
from typing import Any, get_args, get_origin

import numpy as np
import pandas as pd
import pytest
import torch
import typer
import yaml
from safetensors import safe_open

from analysis.cli import app as analysis_app
from analysis.cli import main as analysis
from analysis.table.collect import shared_settings
from bigbatch_ue.batching.micro_batch import remember_micro_batch
from bigbatch_ue.cli.commands import app, main
from bigbatch_ue.cli.demo import demo
from bigbatch_ue.cli.runner import run
from bigbatch_ue.clustering.clusters import Clusters
from bigbatch_ue.config.load import load_config, revise_evaluation
from bigbatch_ue.config.names import DATASETS, PRESETS, TARGETS, ArmName
from bigbatch_ue.config.schema import Config
from bigbatch_ue.config.sections import DataConfig
from bigbatch_ue.data.decoded import DataSet, prepare_dataset
from bigbatch_ue.evaluation.arms import arm_specs
from bigbatch_ue.evaluation.subject import Subject
from bigbatch_ue.files.formats import digest, read_json, write_json
from bigbatch_ue.files.tensor_files import read_tensors, write_tensors
from bigbatch_ue.networks.surrogate import prepare_surrogate
from bigbatch_ue.protection.perturbations import Perturbations, load_perturbations
from bigbatch_ue.protection.protect import protect
from bigbatch_ue.runs.folder import create_run, load_run, open_run
from bigbatch_ue.runtime.device import device_name
from bigbatch_ue.runtime.errors import EXIT_LOST_RANK, UserError
from bigbatch_ue.runtime.randomness import Purpose, torch_seed
from bigbatch_ue.runtime.signals import EXIT_INTERRUPTED, Interrupted
from bigbatch_ue.sweeps.cells import sweep_cells
from bigbatch_ue.sweeps.spec import load_sweep
from tests.helpers.forked import SERVER
from tests.repository.shapes import settle, shape_of

GOLDEN = Path(__file__).with_name("golden.json")
REPOSITORY = Path(__file__).parents[2]
LAUNCHERS = ("ds_configs", *(f"launchers{name}" for name in ("", "/accelerate", "/lsf", "/slurm")))
CPU = torch.device("cpu")
WHEN = 1_600_000_000
CLASSES = 3

NET = {"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]}
TINY: dict[str, Any] = {
    "data": {"size": 8, "limit": 60},
    "surrogate": {"args": NET, "fit": {"epochs": 1}},
    "clusters": {"count": 2, "n_init": 1},
    "generator": {"width": 4},
    "budget": {"steps": 2, "epochs": 1},
    "noise": {"every": 1},
    "compute": {"precision": "float32"},
    "target": {"args": NET, "fit": {"epochs": 2}},
}

# -- configuration and presets -------------------------------------------------------------------


def configuration() -> dict[str, Any]:
    """Every key with its default, what of it decides the answer, and what presets change."""
    default = load_config()
    settings = flat(default.model_dump(mode="json"))
    presets = {}
    for preset in PRESETS:
        config = load_config(preset)
        own = flat(config.model_dump(mode="json"))
        changed = {key: own.get(key) for key in own | settings if own.get(key) != settings.get(key)}
        presets[preset] = {"settings": changed, "answer": digest(config.answer())}
    return {
        "defaults": settings,
        "answer": flat(default.answer()),
        "answer digest": digest(default.answer()),
        "presets": presets,
        "targets": {
            target: flat(revise_evaluation(default, target).target.model_dump(mode="json"))
            for target in TARGETS
        },
    }


def bundled() -> dict[str, Any]:
    """Names of what is there to choose from, and what the preset files say."""
    files = (REPOSITORY / "bigbatch_ue").rglob("presets/*.yaml")
    return {
        "presets": PRESETS,
        "data sets": DATASETS,
        "targets": TARGETS,
        "files": {path.name: yaml.safe_load(path.read_text()) for path in files},
        "launchers": {
            folder: sorted(path.name for path in (REPOSITORY / folder).iterdir() if path.is_file())
            for folder in LAUNCHERS
        },
    }


# -- digests -------------------------------------------------------------------------------------


def digests() -> dict[str, Any]:
    """What names cached and resumable things, wherever no trained number goes in."""
    write_inputs()
    digits = load_config("digits", settings=[TINY])
    data = prepare_dataset(digits.data)
    return {
        "of a mapping": digest({"b": [1, None, 0.5, True], "a": "\u00e4"}),
        "data": dict(data_sets()),
        "decoded": decoded(),
        "run": open_run(digits, data.identities, resume=False).answer,
        "surrogate": surrogates(digits, data),
        "micro-batch": micro_batches(digits),
        "tensors": tensor_header(),
        "cells": [cell.name for cell in sweep_cells(load_sweep(Path("axes.yaml")))],
        "settings of a curve": digest(shared_settings(digits)),
        "seeds": {purpose.name: torch_seed(7, purpose, 3) for purpose in Purpose},
        **of_perturbations(),
    }


def write_inputs() -> None:
    """Data sets with files of fixed bytes and times, labels, weights, and a sweep of many axes."""
    random = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 12), ("test", 6)):
        arrays[f"{part}_images"] = random.integers(256, size=(count, 8, 8), dtype=np.uint8)
        arrays[f"{part}_labels"] = (np.arange(count, dtype=np.uint8) % CLASSES)[:, None]
        for label in range(CLASSES):
            place = Path("folder", part, f"class{label}")
            place.mkdir(parents=True)
            for number in range(2):
                pixels = random.integers(256, size=64, dtype=np.uint8)
                (place / f"{number}.pgm").write_bytes(b"P5 8 8 255\n" + pixels.tobytes())
    with zipfile.ZipFile("set.npz", "w") as archive:  # numpy would write the time of day
        for name, array in arrays.items():
            np.save(content := io.BytesIO(), array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue())
    Path("labels.yaml").write_text("'0': a\n'1': b\n'2': a\n")
    Path("weights.bin").write_bytes(bytes(range(64)))
    for path in (Path("set.npz"), *Path("folder").rglob("*.pgm")):
        os.utime(path, (WHEN, WHEN))
    axes = {
        "datasets": ["digits", {"preset": "small", "settings": {"data": {"name": "npz:set.npz"}}}],
        "batches": [4],
        "seeds": [1],
        "budgets": ["epochs", "steps"],
        "lr_rules": ["none", "sqrt"],
        "scopes": ["cluster", "all"],
        "settings": TINY,
    }
    Path("axes.yaml").write_text(yaml.safe_dump(axes))


def data_sets() -> Iterator[tuple[str, str]]:
    for name in ("digits", "npz:set.npz", "folder:folder"):
        for limit in (None, 12 if name == "digits" else 4):
            found = prepare_dataset(DataConfig(name=name, size=8, limit=limit))
            assert found.name == name
            yield f"{name}, {limit} of them" if limit else name, found.identity.fingerprint


def decoded() -> list[str]:
    """Folders of decoded images; a digest of the place of the user's own files is in their name."""
    names = [path.name for path in Path("data", "decoded").iterdir() if path.is_dir()]
    for place in ("set.npz", "folder"):
        of_place = digest(str(Path(place).resolve()))
        names = [name.replace(of_place, f"<digest of {place}>") for name in names]
    return sorted(names)


def surrogates(config: Config, data: DataSet) -> dict[str, Any]:
    """The file of a fitted surrogate, and what it records, but for how well it does."""
    prepare_surrogate(
        config.surrogate,
        data,
        augment=config.augment,
        seed=config.seed,
        cache=Path("fitted"),
        device=CPU,
    )
    (file,) = Path("fitted").glob("*.safetensors")
    about = read_tensors(file)[1]
    del about["accuracy"]
    return {file.name: about}


def micro_batches(config: Config) -> dict[str, Any]:
    """What is remembered of the micro-batch that fits, but for the name of the device."""
    remember_micro_batch(config, CPU, 3)
    (file,) = Path("data", "surrogates").glob("micro-*.json")
    name = device_name(CPU)
    return {file.name: {k.replace(name, "<device>"): v for k, v in read_json(file).items()}}


def tensor_header() -> dict[str, str]:
    """What stands in a file of tensors beside them, the checksum included."""
    path = Path("fixed.safetensors")
    write_tensors(path, {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(1)}, {"step": 1})
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def of_perturbations() -> dict[str, Any]:
    """What depends on the perturbations of a run: these are made up, and alike everywhere."""
    clusters = {"clusters": {"count": CLASSES}}
    place = {"output": "runs/made", "data": {"name": "npz:set.npz", "size": 8}}
    config = load_config("small", settings=[TINY, place, clusters, {"data": {"limit": None}}])
    data = prepare_dataset(config.data)
    run = open_run(config, data.identities, resume=False)
    create_run(run, config, data.identity)
    assignment = torch.arange(len(data.train)) % CLASSES
    Clusters(assignment, torch.zeros(CLASSES, 2), torch.tensor([1, 2, 0])).save(run.clusters, {})
    delta = torch.arange(CLASSES * 64).reshape(CLASSES, 1, 8, 8).remainder(9).sub(4) / 64
    write_tensors(run.perturbations, {"perturbations": delta}, {"answer": run.answer})
    write_json(run.result, {"effective_batch": 4, "optimizer_steps": 2})
    config, run = load_run(run.folder)
    learnt = load_perturbations(config, run, data)
    return {
        "perturbations": learnt.fingerprint(),
        "run of one's own images": run.answer,
        "protected": protections(run.folder),
        "arms": dict(arms(config, data, learnt)),
    }


def protections(run: Path) -> dict[str, Any]:
    found = {}
    for form in ("png", "npz"):
        for at in ("training", "original"):
            out = Path(f"{form}-{at}")
            protect(run, out=out, form=form, at=at)
            (manifest,) = out.glob("*.json")
            about = read_json(manifest)
            found[f"{form} at {at} size"] = {key: about[key] for key in ("inputs", "answer")}
    return found


def arms(config: Config, data: DataSet, learnt: Perturbations) -> Iterator[tuple[str, str]]:
    """The inputs of every arm that there is."""
    asked = {
        "seeds": "[1]",
        "fractions": "[0.5, 1.0]",
        "countermeasures": "all",
        "labels": "[own, random:2, map:labels.yaml]",
    }
    config = revise_evaluation(
        config, overrides=[f"evaluation.{key}={value}" for key, value in asked.items()]
    )
    loaded = revise_evaluation(config, overrides=["target.weights=file:weights.bin"])
    control = replace(learnt, delta=-learnt.delta)
    features = np.zeros((len(data.train), 2), np.float32)

    def subject(name: ArmName, config: Config) -> Subject:
        return Subject(name, config, data, learnt, learnt.assignment, lambda: features, control)

    for name in (ArmName.UC, ArmName.PROTECTED):
        for case in arm_specs(config.evaluation, name):
            yield " ".join(map(str, case)), subject(name, config).inputs(case)
    case = next(iter(arm_specs(config.evaluation, ArmName.UC)))
    yield "of two ranks", subject(ArmName.UC, config).inputs(case, ranks=2)
    yield "of a file of weights", subject(ArmName.UC, loaded).inputs(case)


# -- commands ------------------------------------------------------------------------------------


def commands() -> dict[str, Any]:
    """Commands and their parameters, without their help."""
    return {
        program: {
            name: {parameter.name: _parameter(parameter) for parameter in command.params}
            for name, command in typer.main.get_group(own).commands.items()
        }
        for program, own in (("bigbatch-ue", app), ("python -m analysis", analysis_app))
    }


def _parameter(parameter: Any) -> dict[str, Any]:
    kind, default = parameter.type_descriptor.annotation, parameter.default
    (element,) = get_args(kind) if get_origin(kind) is list else (kind,)
    choices = element if isinstance(element, EnumType) else get_args(element)
    found = {
        "kind": parameter.param_type_name,
        "names": [*parameter.opts, *parameter.secondary_opts],
        "type": "choice" if choices else element.__name__,
        "choices": list(choices),
        "at least": parameter.min,
        "at most": parameter.max,
        "metavar": parameter.metavar,
        "default": str(default) if isinstance(default, Path) else default,
        "required": parameter.required,
        "multiple": parameter.multiple or parameter.nargs == -1,
    }
    return {
        key: value for key, value in found.items() if value not in ([], None) and value is not False
    }


def exit_codes() -> dict[str, Any]:
    """How the program ends, by what ends it."""
    lost = RuntimeError("Connection closed by peer")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLD_SIZE", "2")
        patch.setattr(os, "_exit", sys.exit)
        return {
            "constants": {"stopped": EXIT_INTERRUPTED, "lost another rank": EXIT_LOST_RANK},
            "what the user can mend": _ended_by(UserError("wrong")),
            "a file that is not there": _ended_by(FileNotFoundError(2, "No such file", "x")),
            "memory": _ended_by(MemoryError()),
            "a signal or the time limit": _ended_by(Interrupted("stopped")),
            "another rank was lost": _ended_by(lost),
            "Ctrl-C": _ended_by(KeyboardInterrupt()),
            "no such option": _run(main, "plan", "--nothing"),
            "no such command": _run(analysis, "nothing"),
        }


def _ended_by(cause: BaseException) -> int:
    failing = typer.Typer()

    @failing.command()
    def fail() -> None:
        raise cause

    return _run(lambda _: run(failing, []))


def _run(program: Callable[[list[str]], None], *arguments: str) -> int:
    """The exit code of a command; what it says is shown if the test fails."""
    try:
        program(list(arguments))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


# -- files ---------------------------------------------------------------------------------------


def files() -> dict[str, Any]:
    """Names of the files that every stage leaves, keys and types in them, TensorBoard's tags."""
    sweep = {
        "output": "runs/sweep",
        "datasets": ["digits"],
        "batches": [4],
        "seeds": [0],
        "budgets": ["steps"],
        "settings": {
            **TINY,
            "evaluation": {
                "arms": ["clean", "random_noise", "random_surrogate", "unprotected", "uc"],
                "fractions": [0.5, 1.0],
            },
        },
    }
    stopped = {
        **TINY,
        "output": "runs/stopped",
        "surrogate": {"model": "resnet18", "args": NET, "weights": "random"},
        "batch": {"effective": 4, "micro": 2},
        "budget": {"kind": "steps", "steps": 4},
    }
    Path("sweep.yaml").write_text(yaml.safe_dump(sweep))
    Path("stopped.yaml").write_text(yaml.safe_dump(stopped))
    write_study(Path("runs", "study"))
    draws = ("--draws", "500")
    commands: tuple[tuple[int, Callable[[list[str]], None], tuple[str, ...]], ...] = (
        (0, main, ("sweep", "--config", "sweep.yaml")),
        (0, analysis, ("collect", "runs/sweep")),
        (0, analysis, ("report", "runs/sweep/analysis", *draws)),
        (0, analysis, ("report", "runs/study", *draws)),
        (0, analysis, ("tensorboard", "runs/study", *draws)),
        (EXIT_INTERRUPTED, main, ("train", "--config", "stopped.yaml", "--time-limit", "0")),
        (0, main, ("bench", "--config", "stopped.yaml", "--rounds", "1", "--out", "runs/bench")),
        (0, analysis, ("scaling", "runs/bench")),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bigbatch_ue.sweeps.worker.get_context", lambda _: SERVER)
        for code, program, arguments in commands:
            assert _run(program, *arguments) == code, arguments
    settings = [f"{key}={value}" for key, value in flat(TINY).items()]
    demo(Path("runs/demo"), overrides=[*settings, "batch.extend=views", "batch.micro=16"])
    return shape_of(Path(), "data", "runs")


def write_study(folder: Path) -> None:
    """A table with enough runs for every kind of finding: a part of the example's."""
    table = pd.read_csv(REPOSITORY / "analysis" / "examples" / "sweep" / "table.csv")
    critical = {"critical_batch": 64.0, "critical_batch_low": 32.0, "critical_batch_high": 128.0}
    some = table.query("dataset == 'digits' and seed < 2 and effective_batch in [2, 8, 32, 128]")
    folder.mkdir(parents=True)
    some = some.rename(columns={"oscillation": "detrended_oscillation"})
    some.assign(**critical).to_csv(folder / "table.csv", index=False)


# -- the comparison ------------------------------------------------------------------------------

SECTIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "configuration": configuration,
    "bundled": bundled,
    "digests": digests,
    "commands": commands,
    "exit codes": exit_codes,
    "files": files,
}


@pytest.mark.parametrize("section", SECTIONS)
def test_nothing_has_changed(section: str, tmp_path: Path) -> None:
    golden = flat(json.loads(GOLDEN.read_text())[section], " > ")
    found = flat(record(section, tmp_path), " > ")
    settle(golden, found)
    settle(found, golden)
    before, now = (
        [f"{k} = {json.dumps(v)}" for k, v in sorted(c.items())] for c in (golden, found)
    )
    changes = list(difflib.unified_diff(before, now, GOLDEN.name, "now", n=0, lineterm=""))
    assert not changes, "\n".join([f"{section}; on purpose? see the top of this file", *changes])


def record(section: str, folder: Path) -> dict[str, Any]:
    """A section as JSON has it; whatever it makes goes to `folder`."""
    with contextlib.chdir(folder):
        found: dict[str, Any] = json.loads(json.dumps(SECTIONS[section]()))
    return found


def flat(content: Any, dot: str = ".", place: str = "") -> dict[str, Any]:
    """Values by their way through mappings; lists and empty mappings are values."""
    if not isinstance(content, dict) or not content:
        return {place: content}
    found: dict[str, Any] = {}
    for key, value in content.items():
        found |= flat(value, dot, f"{place}{dot}{key}" if place else key)
    return found


def write_golden() -> None:
    """Record everything again."""
    golden = {}
    for section in SECTIONS:
        with tempfile.TemporaryDirectory() as folder:
            golden[section] = record(section, Path(folder))
    GOLDEN.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    write_golden()
