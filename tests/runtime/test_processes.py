"""Work shared by several processes: its order, its errors, and its end."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.processes import in_processes, process_count

pytestmark = pytest.mark.skipif(
    process_count(1000) == 1, reason="a single processor, or processes that cannot be copied"
)
COUNT = 1000


def test_every_index_is_done_once_in_order_by_several_processes() -> None:
    done = list(in_processes(lambda indices: (os.getpid(), sum(indices)), COUNT))
    assert [index for indices, _ in done for index in indices] == list(range(COUNT))
    assert all(total == sum(indices) for indices, (_, total) in done)
    pids = {pid for _, (pid, _) in done}
    assert len(pids) == process_count(COUNT) > 1
    assert os.getpid() not in pids


def test_few_pieces_of_work_start_no_process() -> None:
    assert [pid for _, pid in in_processes(lambda _: os.getpid(), 100)] == [os.getpid()] * 2
    assert list(in_processes(len, 0)) == []


def test_an_error_is_met_here_after_what_comes_before_it() -> None:
    def work(indices: range) -> int:
        if 500 in indices:
            raise UserError(f"500: wrong in {os.getpid()}")
        return len(indices)

    done: list[tuple[range, int]] = []
    with pytest.raises(UserError, match=f"500: wrong in {os.getpid()}"):
        done.extend(in_processes(work, COUNT))
    assert sum(count for _, count in done) == 500 // 64 * 64
    assert multiprocessing.active_children() == []


def test_the_part_of_a_process_that_is_killed_is_done_here(
    capsys: pytest.CaptureFixture[str],
) -> None:
    here = os.getpid()

    def work(indices: range) -> int:
        if os.getpid() != here and 500 in indices:
            os.kill(os.getpid(), signal.SIGKILL)
        return sum(indices)

    assert sum(total for _, total in in_processes(work, COUNT)) == sum(range(COUNT))
    assert capsys.readouterr().err.count("a process beside this one was ended") == 1


def test_what_is_given_up_leaves_no_process() -> None:
    results = in_processes(lambda _: time.sleep(0.05), 64 * 500)
    next(results)
    assert len(multiprocessing.active_children()) == process_count(64 * 500)
    began = time.monotonic()
    results.close()  # type: ignore[attr-defined]
    assert multiprocessing.active_children() == []
    assert time.monotonic() - began < 1


def test_processes_end_with_the_one_that_started_them() -> None:
    script = (
        "import os, time\n"
        "from bigbatch_ue.runtime.processes import in_processes\n"
        "def work(_):\n"
        "    time.sleep(0.02)\n"
        "    return os.getpid()\n"
        "for _, pid in in_processes(work, 100_000): print(pid, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pids = {int(process.stdout.readline()) for _ in range(20)}
        process.kill()
    deadline = time.monotonic() + 20
    while left := [pid for pid in pids if _runs(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
