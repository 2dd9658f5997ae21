"""Estimated times of cells."""

from pathlib import Path

from bigbatch_ue.sweeps.cells import sweep_cells
from bigbatch_ue.sweeps.estimate import estimate, plan_cell
from bigbatch_ue.sweeps.spec import load_sweep
from tests.helpers.sweeps import write


def test_time_grows_with_the_batch_and_shared_work_counts_once(tmp_path: Path) -> None:
    everything = sweep_cells(load_sweep(write(tmp_path, batches=[4, 4096], seeds=[0])))
    seconds = estimate(everything)
    small, large = (seconds[cell.name] for cell in everything)
    assert [plan_cell(cell).images_per_step for cell in everything] == [12, 12288]
    assert 0 < small < large
    turned = estimate(everything[::-1])
    assert turned[everything[0].name] < small
    assert sum(turned.values()) > 0
