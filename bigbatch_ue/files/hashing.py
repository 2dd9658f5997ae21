"""Digests of files, with progress: those of large data sets take minutes."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from bigbatch_ue.runtime.progress import progress

_CHUNK = 2**20
_MB = 10**6


def digest_files(paths: Sequence[Path], what: str, algorithm: str = "sha256") -> list[str]:
    """Return the digest of the bytes of each file, in hexadecimal digits.

    Args:
        paths: of the files.
        what: name of the files, for the progress.
        algorithm: as for `hashlib.new`.
    """
    if not paths:
        return []
    digests, read = [], 0
    total = sum(path.stat().st_size for path in paths)
    with progress(f"checking {what}", "MB", total // _MB) as stage:
        for path in paths:
            content = hashlib.new(algorithm, usedforsecurity=False)
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    content.update(chunk)
                    stage.advance((read + len(chunk)) // _MB - read // _MB)
                    read += len(chunk)
            digests.append(content.hexdigest())
    return digests
