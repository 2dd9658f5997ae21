"""What a run is known by: its settings, and the images it was trained on."""

from typing import Any, NamedTuple

from bigbatch_ue.config.schema import Config
from bigbatch_ue.files.formats import digest


class DataIdentity(NamedTuple):
    """What digests know a data set by.

    Attributes:
        name: `data.name`; None for a user's files, which are known by their content, not their
            place.
        fingerprint: digest of the names, sizes and contents of all files, the image size, and the
            limit.
    """

    name: str | None
    fingerprint: str


def answer(config: Config, data: DataIdentity) -> dict[str, Any]:
    """Return the settings that decide a result, with the place of images if it identifies them."""
    return config.answer(with_place=data.name is not None)


def answer_digest(config: Config, data: DataIdentity) -> str:
    """Return the digest of everything that decides the result of a run."""
    return digest([answer(config, data), data.fingerprint])
