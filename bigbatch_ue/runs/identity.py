"""What a run is known by: its settings, the images it was trained on, and a file of weights."""

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from bigbatch_ue.config.schema import Config
from bigbatch_ue.files.formats import digest
from bigbatch_ue.files.hashing import digest_files
from bigbatch_ue.files.paths import expand_path, require_file


class DataIdentity(NamedTuple):
    """What digests know a data set by.

    Attributes:
        name: `data.name`; None for a user's files, which are known by their content, not their
            place.
        fingerprint: digest of the names, sizes and contents of all files, the image size, and the
            images within the limit.
    """

    name: str | None
    fingerprint: str


def hash_weights(weights: str) -> str | None:
    """Return the SHA-256 of the file that a setting such as `surrogate.weights` names, if any.

    Raises:
        UserError: the file is missing or cannot be read.
    """
    kind, _, place = weights.partition(":")
    if kind != "file":
        return None
    path = require_file(expand_path(place))
    return _hash_file(path, path.stat().st_mtime_ns)


@lru_cache
def _hash_file(path: Path, _changed: int) -> str:
    (content,) = digest_files([path], path.name)
    return content


def answer(config: Config, data: DataIdentity, weights: str | None) -> dict[str, Any]:
    """Return the settings that decide a result, with a place only if it identifies something.

    Args:
        config: the settings of the run.
        data: the identity of its images; one with a name is known by that, too.
        weights: SHA-256 of the surrogate's weights file; None keeps the setting as it is, for
            weights that are no file, and for runs of earlier versions.
    """
    content = config.answer(with_place=data.name is not None)
    if weights is not None:
        content["surrogate"]["weights"] = f"a file with SHA-256 {weights}"
    return content


def answer_digest(config: Config, data: DataIdentity, weights: str | None = None) -> str:
    """Return the digest of everything that decides the result of a run; see `answer`."""
    return digest([answer(config, data, weights), data.fingerprint])
