"""The operator that DeepSpeed compiles for ranks without a GPU."""

import os
from pathlib import Path

from filelock import FileLock

from bigbatch_ue.runtime.console import note

_NAME = "deepspeed_shm_comm"


def load_shared_memory_operator() -> None:
    """Load DeepSpeed's operator for ranks that share memory; compile it at the first start.

    torch before 2.14 marks a build that is under way by a file, and waits until that is gone: for
    ever, if the build was killed. Here processes take turns behind a lock that ends with its
    holder, so that a mark under the lock is one that was left.
    """
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder
    from torch.utils import cpp_extension

    builder = ShareMemCommBuilder()
    if not builder.is_compatible():
        return
    folder = Path(cpp_extension._get_build_directory(_NAME, verbose=False))
    if not (folder / f"{_NAME}.so").exists():
        note("compiling DeepSpeed's operator for this environment, once: about a minute")
    with FileLock(folder.with_suffix(".turn")):
        (folder / "lock").unlink(missing_ok=True)
        builder.load(verbose=False)


if __name__ == "__main__":
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    load_shared_memory_operator()
