"""The specification of a sweep: batches, and bad files."""

from pathlib import Path
from typing import Any

import pytest

from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.sweeps.spec import BatchGrid, SweepSpec, base_config, load_sweep
from tests.helpers.sweeps import write


@pytest.mark.parametrize(
    ("given", "sizes"),
    [
        ([8, "full", 2], [2, 8, 100]),
        ({"from": 16, "to": "full"}, [16, 32, 64, 100]),
        ({"from": 25, "to": "full"}, [25, 50, 100]),
        ({"from": 2, "to": 54, "factor": 3}, [2, 6, 18, 54]),
        ({"from": 200, "to": "full"}, [100]),
    ],
)
def test_batches(given: Any, sizes: list[int]) -> None:
    assert BatchGrid.model_validate(given).sizes(100) == sizes


@pytest.mark.parametrize(
    ("given", "runs", "targets"),
    [
        ([4, 7], (4, 7), None),
        ({"run": [4, 7]}, (4, 7), None),
        ({"run": 2, "target": 3}, (0, 1), (0, 1, 2)),
        ({"run": [4, 7], "target": [9]}, (4, 7), (9,)),
        ({"target": 2}, (0, 1, 2, 3, 4), (0, 1)),
    ],
)
def test_seeds(
    given: Any, runs: tuple[int, ...], targets: tuple[int, ...] | None, tmp_path: Path
) -> None:
    sweep = load_sweep(write(tmp_path, seeds=given))
    assert sweep.seeds.run == runs
    assert [sweep.seeds.targets_of(run) for run in runs] == [targets or (run,) for run in runs]
    written = sweep.model_dump(mode="json", by_alias=True)
    assert SweepSpec.model_validate(written) == sweep, "sweep.yaml in the folder can be used again"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"batches": []}, "give a list, or from, to and factor"),
        ({"batches": {"from": 2, "factor": 1}}, "batches.factor=1"),
        ({"batches": [0]}, "batches: 0 is neither a positive number of images nor 'full'"),
        ({"sizes": [2]}, "sizes: unknown key; allowed: output, datasets, batches"),
        ({"datasets": [{"name": "digits"}]}, "datasets.name: unknown key"),
        ({"settings": {"seed": 3}}, "settings: seed is set by the sweep; use `seeds`"),
        ({"settings": {"batch": {"effective": 3}}}, "batch.effective is set"),
        ({"budgets": ["hours"]}, "budgets='hours'"),
        ({"seeds": {"run": 0}}, "seeds.run=0: must be a positive number of seeds, or a list of"),
        ({"seeds": {"target": "3"}}, "seeds.target='3': must be a positive number of seeds, or a"),
        ({"seeds": {"target": True}}, "seeds.target=True: must be a positive number of seeds, or"),
        ({"seeds": {"target": []}}, "seeds.target=[]: must have at least 1 item"),
        ({"seeds": {"target": [0, -1]}}, "seeds.target=-1: must be greater than or equal to 0"),
        ({"seeds": {"target": [1, 1]}}, "seeds.target: contains a value twice; remove one"),
        ({"seeds": {"runs": 3}}, "seeds.runs: unknown key; allowed: run, target"),
        ({"seeds": 3}, "seeds is a section; set one of its keys: run, target"),
        (
            {"seeds": {"target": 2}, "settings": {"evaluation": {"seeds": [3]}}},
            "settings: evaluation.seeds is set by the sweep; use `seeds.target`",
        ),
    ],
)
def test_a_bad_sweep_file_is_one_clear_line(
    changed: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as error:
        load_sweep(write(tmp_path, **changed))
    assert says in str(error.value)


def test_a_section_that_is_none_is_told(tmp_path: Path) -> None:
    datasets = [{"preset": "digits", "settings": {"generator": 3}}]
    sweep = load_sweep(write(tmp_path, strength="midway", datasets=datasets))
    with pytest.raises(UserError, match=r"^generator=3: generator is a section; set one"):
        base_config(sweep, sweep.datasets[0], 0, "cluster")
