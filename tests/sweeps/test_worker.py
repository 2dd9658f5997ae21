"""The worker: a cell that kills it, and a cell that is lost."""

import os
import signal
from contextlib import closing
from pathlib import Path

import psutil

from bigbatch_ue.sweeps.cells import sweep_cells
from bigbatch_ue.sweeps.spec import load_sweep
from bigbatch_ue.sweeps.worker import Worker
from tests.helpers.sweeps import write


def test_a_cell_fails_if_the_worker_is_killed_and_the_next_one_runs(tmp_path: Path) -> None:
    sweep = load_sweep(write(tmp_path, batches=[4], seeds=[0, 1]))
    first, second = sweep_cells(sweep)
    for cell in (first, second):
        cell.config.save(cell.files.cell)
    killed: list[int] = []

    def kill_once() -> bool:
        children = psutil.Process().children()
        workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        if not killed and first.files.log.exists():
            killed.extend(worker.pid for worker in workers)
            for pid in killed:
                os.kill(pid, signal.SIGKILL)
        return False

    with closing(Worker()) as worker:
        outcome = worker.run(first.files.folder, lost=kill_once)
        assert outcome is not None
        assert outcome.reason == "its process was ended by SIGKILL (out of memory?)"
        after = worker.run(second.files.folder)
    assert after is not None
    assert after.finished


def test_a_lost_cell_has_no_outcome(tmp_path: Path) -> None:
    cell = sweep_cells(load_sweep(write(tmp_path)))[0]
    cell.config.save(cell.files.cell)
    with closing(Worker()) as worker:
        assert worker.run(cell.files.folder, lost=lambda: True) is None
