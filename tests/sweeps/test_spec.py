"""The specification of a sweep: batches, and bad files."""

from pathlib import Path
from typing import Any

import pytest

from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.sweeps.spec import BatchGrid, load_sweep
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
    ("changed", "says"),
    [
        ({"batches": []}, "give a list, or from, to and factor"),
        ({"batches": {"from": 2, "factor": 1}}, "batches.factor=1"),
        ({"batches": [0]}, "batches: 0 is neither a positive number of images nor 'full'"),
        ({"sizes": [2]}, "sizes: unknown key; allowed: output, datasets, batches"),
        ({"datasets": [{"name": "digits"}]}, "datasets.name: unknown key"),
        ({"settings": {"seed": 3}}, "settings: seed is varied by the sweep; use `seeds`"),
        ({"settings": {"batch": {"effective": 3}}}, "batch.effective is varied"),
        ({"budgets": ["hours"]}, "budgets='hours'"),
    ],
)
def test_a_bad_sweep_file_is_one_clear_line(
    changed: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as error:
        load_sweep(write(tmp_path, **changed))
    assert says in str(error.value)
