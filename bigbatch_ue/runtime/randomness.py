"""Counter-based random numbers: a draw depends on its key, never on earlier draws.

Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) maps (key, counter)
to random words. Any rank can therefore draw the numbers of any step or epoch, in any order.
"""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """The purpose of a draw; draws for different purposes are independent."""

    SHUFFLE = 1
    VIEWS = 2
    GENERATOR = 3
    TARGET_MAP = 4
    KMEANS = 5
    FIT = 6
    CONTROL = 7
    LABELS = 8
    DISTORTIONS = 9
    SHARE = 10


def draw(seed: int, purpose: Purpose, index: int = 0, subindex: int = 0) -> np.random.Generator:
    """Make the random generator of a key.

    Args:
        seed: of the run.
        purpose: of the draw.
        index: of the draw, such as a step or an epoch.
        subindex: of the draw, such as a cluster.
    """
    return np.random.Generator(
        np.random.Philox(key=[seed, int(purpose)], counter=[0, 0, index, subindex])
    )


def torch_seed(seed: int, purpose: Purpose, index: int = 0) -> int:
    """Draw a 63-bit seed for a `torch.Generator`, keyed like `draw`."""
    return int(draw(seed, purpose, index).integers(2**63 - 1))
