"""One global batch in every decomposition, on every engine: the same gradient and perturbations."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open

from bigbatch_ue.files.tensor_files import read_tensors
from bigbatch_ue.runtime.accelerator import start_accelerator
from bigbatch_ue.runtime.errors import UserError
from tests.helpers.forked import run_ranks
from tests.helpers.ranks import CUT, ROOT, Launch, needs_compiler, set_launcher_variables
from tests.helpers.trainer import CLUSTERS

WORKER = Path(__file__).with_name("worker.py")
WHOLE = (
    "96x192-delta-sgd-1",
    "97x194-delta-sgd-1",
    "96x192-delta-adam-2",
    "40+97x194-delta-sgd-2",
)
SCARCE = "96x48-scarce-sgd-1"


ZERO = "DeepSpeedEngine"
STARTS = (
    (Launch("single", 1, "single", "GeneratorBank"),),
    (
        Launch("fsdp2", 2, "fsdp2", "FSDPGeneratorBank", CUT[2:]),
        Launch("ddp", 2, "ddp", "DistributedDataParallel", (*CUT, SCARCE)),
        Launch("zero0", 2, "zero0", ZERO, (*CUT[:2], CUT[-1])),
        Launch("zero1", 2, "zero1", ZERO, CUT[2:]),
    ),
    (
        Launch("zero3", 2, "zero3", ZERO, (*CUT[3:5], CUT[-1])),
        Launch("zero2_offload", 2, "zero2", ZERO, CUT[4:5]),
        Launch("zero3_offload", 2, "zero3", ZERO, CUT[4:5]),
    ),
    (Launch("zero2", 3, "zero2", ZERO, CUT[3:]),),
)
"""Launches whose ranks are started together, under the first one's configuration."""
LAUNCHES = [launch for started in STARTS for launch in started]


@pytest.fixture(scope="module")
def starting(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Launch], Path]:
    """Start the ranks of a launch, and of those that are started with it, once."""
    out = tmp_path_factory.mktemp("engines")

    @cache
    def results(launches: tuple[Launch, ...]) -> None:
        configs = [f"launchers/accelerate/{launch.config}.yaml" for launch in launches]
        whole = WHOLE if launches[0].ranks == 1 else ()
        parts = zip(configs, ((*whole, *launch.cases) for launch in launches), strict=True)
        run_ranks(
            launches[0].config,
            launches[0].ranks,
            [str(WORKER), str(out)]
            + [word for config, cases in parts for word in (config, *cases)],
            RESUME_ENGINE_PATH_FROM=str(out / "single"),
        )

    def folder(launch: Launch) -> Path:
        results(next(launches for launches in STARTS if launch in launches))
        return out / launch.config

    return folder


@pytest.fixture(scope="module")
def alone(starting: Callable[[Launch], Path]) -> Path:
    """Results of one process for the whole batches, and for batches in micro-batches."""
    return starting(LAUNCHES[0])


@pytest.fixture(scope="module", params=LAUNCHES, ids=str)
def launched(
    request: pytest.FixtureRequest, alone: Path, starting: Callable[[Launch], Path]
) -> tuple[Launch, Path, Path]:
    """Results of the ranks of one launch for all its cases."""
    launch: Launch = request.param
    for each in next(launches for launches in STARTS if launch in launches):
        needs_compiler(each)
    return launch, starting(launch), alone


def facts_of(path: Path) -> dict[str, object]:
    with safe_open(path, framework="pt") as file:
        facts: dict[str, object] = json.loads(file.metadata()["bigbatch_ue"])
    return facts


def whole_of(case: str) -> str:
    """The case in which one process takes the same batch in one piece on the delta path."""
    batch, _, training = case.split("-", 2)
    effective = batch.split("x")[0]
    return next(w for w in WHOLE if w.startswith(f"{effective}x") and w.endswith(training))


def distance(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Relative L2 distance of two sets of tensors, in double precision."""
    flat = [torch.cat([t[k].double().flatten() for k in sorted(theirs)]) for t in (ours, theirs)]
    assert flat[1].norm() > 0
    return float((flat[0] - flat[1]).norm() / flat[1].norm())


def check_case(case: str, folder: Path, alone: Path) -> None:
    tensors, _ = read_tensors(folder / f"{case}.safetensors")
    reference, _ = read_tensors(alone / f"{whole_of(case)}.safetensors")
    assert torch.allclose(tensors["losses"], reference["losses"], rtol=1e-5)
    if "sgd" in case:
        moved = [{k: v for k, v in t.items() if "moved/" in k} for t in (tensors, reference)]
        assert distance(*moved) < 1e-5
    else:
        assert distance({"d": tensors["delta"]}, {"d": reference["delta"]}) < 1e-3
        assert distance({"d": tensors["resumed"]}, {"d": reference["delta"]}) < 1e-3


@pytest.mark.parametrize("case", CUT)
def test_invariant_3_micro_batches_on_one_process_give_the_same_gradient(
    case: str, alone: Path
) -> None:
    check_case(case, alone, alone)
    assert int(str(facts_of(alone / f"{case}.safetensors")["micro_batches"])) >= 4


def test_invariant_1_result_does_not_depend_on_decomposition_or_engine(
    launched: tuple[Launch, Path, Path],
) -> None:
    launch, out, alone = launched
    for case in launch.cases:
        check_case(case, out, alone)


def test_a_rank_short_of_memory_halves_the_micro_batches_of_all(
    launched: tuple[Launch, Path, Path],
) -> None:
    launch, out, _ = launched
    if SCARCE in launch.cases:
        facts = facts_of(out / f"{SCARCE}.safetensors")
        assert int(str(facts["micro_batches"])) == 96 // 6


def test_every_rank_knows_the_others_and_its_engine(launched: tuple[Launch, Path, Path]) -> None:
    launch, out, _ = launched
    for case in launch.cases:
        facts = facts_of(out / f"{case}.safetensors")
        assert facts["world_size"] == launch.ranks
        assert facts["kind"] == launch.kind
        assert facts["bank"] == launch.bank
        assert facts["recomputes"] == ("adam" in case)


def test_noise_is_measured_with_whole_parameters_on_every_engine(
    launched: tuple[Launch, Path, Path],
) -> None:
    launch, out, _ = launched
    for case in launch.cases:
        facts = facts_of(out / f"{case}.safetensors")
        assert facts["gather_bank_differs_by"] == pytest.approx(0, abs=1e-6)
        noise = facts["noise"]
        assert isinstance(noise, dict)
        assert set(noise) == (set() if "engine" in case else {"delta", "parameters"})
        for traces in noise.values():
            assert len(traces) == CLUSTERS
            assert all(trace > 0 for trace in traces)


def test_resume_is_bit_identical(launched: tuple[Launch, Path, Path]) -> None:
    launch, out, _ = launched
    for case in launch.cases:
        if case.endswith("delta-adam-2"):
            tensors, _ = read_tensors(out / f"{case}.safetensors")
            assert torch.equal(tensors["resumed"], tensors["delta"])


def test_a_rank_that_believes_it_is_alone_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    assert start_accelerator().num_processes == 1
    set_launcher_variables(monkeypatch, 2)
    with pytest.raises(UserError, match="would train alone"):
        start_accelerator()


def test_deepspeed_without_a_launcher_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(UserError, match="DeepSpeed: needs a launcher"):
        start_accelerator()


def test_every_launcher_and_every_deepspeed_config_is_tested() -> None:
    files = {path.stem: path for path in (ROOT / "launchers" / "accelerate").glob("*.yaml")}
    assert set(files) == {launch.config for launch in LAUNCHES}
    settings = [yaml.safe_load(file.read_text()) for file in files.values()]
    used = {
        s["deepspeed_config"]["deepspeed_config_file"] for s in settings if "deepspeed_config" in s
    }
    assert used == {f"ds_configs/{path.name}" for path in (ROOT / "ds_configs").glob("*")}
