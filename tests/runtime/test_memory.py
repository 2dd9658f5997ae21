"""Memory of freed tensors: what is kept for the next pass, and what the system gets back."""

import json
import sys
from pathlib import Path

import pytest

from tests.helpers.forked import Program

SCRIPT = """
import json, sys
from pathlib import Path
import psutil, torch
from bigbatch_ue.runtime.memory import keep_freed_memory, return_freed_memory

def resident():
    return psutil.Process().memory_info().rss / 2**20

def held_after(mebibytes):
    before = resident()
    tensor = torch.ones(mebibytes * 2**18)
    del tensor
    return resident() - before

keep_freed_memory()
held = {"activations": held_after(64), "flat parameters": held_after(300)}
before = resident()
return_freed_memory()
held["returned"] = before - resident()
Path(sys.argv[1]).write_text(json.dumps(held))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone has these settings")
def test_activations_are_kept_and_the_copies_of_a_whole_bank_are_not(tmp_path: Path) -> None:
    script, out = tmp_path / "hold.py", tmp_path / "held.json"
    script.write_text(SCRIPT)
    program = Program([str(script), str(out)])
    said = program.communicate(timeout=60)[1]
    assert program.returncode == 0, said
    held = json.loads(out.read_text())
    assert held["activations"] > 48
    assert held["flat parameters"] < 16
    assert held["returned"] > 48
