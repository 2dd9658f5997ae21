"""DeepSpeed's operator: compiled once, and not blocked by a build that was killed."""

import os
import subprocess
import sys
from pathlib import Path

from torch.utils import cpp_extension


def test_the_mark_of_a_killed_build_does_not_block_a_start() -> None:
    folder = Path(cpp_extension._get_build_directory("deepspeed_shm_comm", verbose=False))
    (folder / "lock").touch()
    command = [sys.executable, "-m", "bigbatch_ue.runtime.deepspeed_build"]
    subprocess.run(command, env={**os.environ, "DS_ACCELERATOR": "cpu"}, check=True, timeout=200)
    assert (folder / "deepspeed_shm_comm.so").exists()
