"""Do perturbed images resemble their originals more than other images of the same class?"""

import numpy as np
from numpy.typing import NDArray

from bigbatch_ue.data.decoded import ImageSet
from bigbatch_ue.data.source import Pixels

_SAMPLE = 200
_OTHERS = 8
_ROUNDING = 1e-9


def resembles_original(perturbed: Pixels, clean: ImageSet) -> NDArray[np.bool_]:
    """Compare perturbed images with their originals, and with other clean images.

    An image resembles its original if it correlates with it, over all values, at least as much as
    with each of up to 8 others of the same class. Noise, JPEG, blur, brightness and contrast
    hardly change that. Among images in a wrong order of the same classes, one in nine does so by
    chance.

    Args:
        perturbed: uint8 [N, C, H, W], in the order of `clean`.
        clean: the originals.

    Returns:
        For each of up to 200 images, evenly spaced, whether it resembles its original. Images that
        are alone in their class are left out.
    """
    count = len(clean)
    sample = np.linspace(0, count, min(count, _SAMPLE), endpoint=False).astype(np.int64)
    found = []
    for index in sample:
        others = _others_of_class(index, clean.labels)
        if len(others):
            candidates = clean.images[[index, *others]]
            own, *rest = _correlations(perturbed[index], candidates)
            found.append(own >= max(rest) - _ROUNDING)
    return np.array(found, dtype=np.bool_)


def _others_of_class(index: np.int64, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the indices of up to 8 other images of the class, evenly spaced."""
    members = np.flatnonzero(labels == labels[index])
    steps = np.linspace(0, len(members), _OTHERS + 1, endpoint=False).astype(np.int64)
    steps = np.unique(steps[steps > 0])
    place = np.searchsorted(members, index)
    others: NDArray[np.int64] = members[(place + steps) % len(members)]
    return others


def _correlations(image: Pixels, candidates: Pixels) -> NDArray[np.float64]:
    """Correlate an image [C, H, W] with each candidate [K, C, H, W]; a constant one gives 0."""
    rows = np.concatenate([image[None], candidates]).reshape(len(candidates) + 1, -1)
    centred = rows - rows.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(centred, axis=1)
    norms[norms == 0] = 1
    centred /= norms[:, None]
    correlations: NDArray[np.float64] = centred[1:] @ centred[0]
    return correlations
