"""What a scraper does against perturbations: to the images, to each batch, or by adversaries."""

import warnings
from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from skimage.filters import butterworth, gaussian
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as T

from bigbatch_ue.config.names import Countermeasure
from bigbatch_ue.data.source import to_hwc

Images = NDArray[np.uint8]
Groups = NDArray[np.int64]
Batch = tuple[Tensor, Tensor]

_CHUNK = 64
_JPEG = {Countermeasure.JPEG75: 75, Countermeasure.JPEG10: 10}
_BLUR = {"kernel_size": [3, 3], "sigma": [0.8, 0.8]}
_BITS = 3
_LOW_PASS = {"cutoff_frequency_ratio": 0.25, "order": 2, "npad": 4}
_CUTOUT = {"p": 0.5, "scale": (0.25, 0.25), "ratio": (1.0, 1.0)}
_COARSE = 3 / 16
_FEWEST = 2
_FIT_IMAGES = 8192
_FIT_VALUES = 2**26
_FIT_ITERATIONS = 100


def applies(name: Countermeasure, channels: int) -> bool:
    """Whether `name` does anything to images of so many channels: grey ones are grey already."""
    return name is not Countermeasure.GREY or channels > 1


def preprocess_images(
    name: Countermeasure, images: Images, *, groups: Groups, eps: float
) -> Images:
    """What a scraper makes of all train images before training; deterministic.

    - `jpeg75`, `jpeg10`: compressed at that quality;
    - `grey`: luma in all three channels;
    - `blur`: Gaussian, 3 x 3 pixels;
    - `bit_depth`: 3 bits for each value (feature squeezing, Xu et al., NDSS 2018, arXiv
      1704.01155);
    - `low_pass`: Butterworth's filter, at half of the highest frequency;
    - `cluster_average`: less the difference of its group's mean and the mean of all, in which the
      images fade but not a perturbation that does not vary within groups; only what is left of it
      without its Gaussian blur, as images have more in common in coarse structure, and only as far
      as `eps`;
    - `projection`: orthogonal to the linear features that tell the groups apart (Sandoval-Segura et
      al., NeurIPS 2023, arXiv 2305.19254).

    Args:
        name: which; one that acts during training leaves the images alone.
        images: uint8 [N, C, H, W], C 1 or 3; may be a memory map, which is read in parts.
        groups: int64 [N], each image's group, for the attacks that know them.
        eps: bound of the perturbations, in units where white is 1.

    Returns:
        uint8 [N, C, H, W] in memory, or `images` itself where nothing is to be done.
    """
    match name:
        case Countermeasure.JPEG75 | Countermeasure.JPEG10:
            return _changed(images, partial(_jpeg, quality=_JPEG[name]))
        case Countermeasure.GREY:
            grey = partial(T.rgb_to_grayscale, num_output_channels=images.shape[1])
            return _changed(images, _by_torch(grey))
        case Countermeasure.BLUR:
            return _changed(images, _by_torch(partial(T.gaussian_blur, **_BLUR)))
        case Countermeasure.BIT_DEPTH:
            return _changed(images, _by_torch(partial(T.posterize, bits=_BITS)))
        case Countermeasure.LOW_PASS:
            return _changed(images, _low_pass)
        case Countermeasure.CLUSTER_AVERAGE:
            return _without_averages(images, groups, 255 * eps)
        case Countermeasure.PROJECTION:
            return _projected(images, groups)
        case _:
            return images


def batch_transform(name: Countermeasure, classes: int) -> Callable[[Tensor, Tensor], Batch] | None:
    """What is done to each batch while training; random by torch's global generator.

    - `cutout`: every other image, at random, loses a square of half its side, which becomes black
      (DeVries and Taylor, 2017, arXiv 1708.04552, the variant that stays within the image);
    - `mixup`: Zhang et al., ICLR 2018, arXiv 1710.09412; alpha 1;
    - `cutmix`: Yun et al., ICCV 2019, arXiv 1905.04899; alpha 1;
    - `randaugment`: Cubuk et al., NeurIPS 2020, arXiv 1909.13719; 2 operations of magnitude 9.

    Args:
        name: which.
        classes: of the labels.

    Returns:
        A function of images uint8 [M, C, H, W] and labels int64 [M] that gives the images, uint8 or
        float32 in [0, 1], and the labels, or for mixtures the shares float32 [M, classes] of each
        class; None where nothing is to be done to a batch.
    """
    match name:
        case Countermeasure.CUTOUT:
            return _one_by_one(v2.RandomErasing(**_CUTOUT))
        case Countermeasure.RANDAUGMENT:
            return _one_by_one(v2.RandAugment())
        case Countermeasure.MIXUP:
            return _mixing(v2.MixUp(num_classes=classes))
        case Countermeasure.CUTMIX:
            return _mixing(v2.CutMix(num_classes=classes))
        case _:
            return None


def pgd(model: nn.Module, images: Tensor, targets: Tensor, *, eps: float, steps: int) -> Tensor:
    """Images near `images` that `model` gets wrong, by projected gradient descent.

    Madry et al., ICLR 2018, arXiv 1706.06083: from a random start, by torch's global generator,
    `steps` steps of 2.5 `eps` / `steps` along the sign of the cross-entropy's gradient. The model
    is attacked in evaluation mode and left as it was, gradients and mode included.

    Args:
        model: maps images to logits [M, classes].
        images: float [M, C, H, W] in [0, 1].
        targets: int64 [M], or float [M, classes] that sum to 1.
        eps: no value is changed by more.
        steps: at least 1.

    Returns:
        Detached images like `images`, in [0, 1].
    """
    training = model.training
    model.eval()
    low, high = (images - eps).clamp(min=0), (images + eps).clamp(max=1)
    found = torch.empty_like(images).uniform_(-eps, eps).add_(images).clamp(low, high)
    for _ in range(steps):
        found.requires_grad_()
        loss = F.cross_entropy(model(found), targets)
        (gradient,) = torch.autograd.grad(loss, found)
        found = (found.detach() + 2.5 * eps / steps * gradient.sign()).clamp(low, high)
    model.train(training)
    return found


def _changed(images: Images, change: Callable[[Images, slice], Any]) -> Images:
    """`images` in memory, part by part as `change` gives them, rounded and clipped to 8 bits.

    `change` takes a part, uint8 [M, C, H, W], and which part it is.
    """
    changed = np.empty(images.shape, np.uint8)
    for part in _parts(len(images)):
        values = np.asarray(change(images[part], part), np.float32)
        changed[part] = np.clip(np.rint(values), 0, 255)
    return changed


def _parts(count: int) -> list[slice]:
    return [slice(start, start + _CHUNK) for start in range(0, count, _CHUNK)]


def _by_torch(change: Callable[[Tensor], Tensor]) -> Callable[[Images, slice], Tensor]:
    return lambda images, _: change(torch.from_numpy(np.array(images)))


def _jpeg(images: Images, _: slice, *, quality: int) -> Images:
    return np.stack([_compressed(image, quality) for image in images])


def _compressed(image: Images, quality: int) -> Images:
    """An image [C, H, W] as it comes out of a JPEG file of that quality."""
    with BytesIO() as file:
        Image.fromarray(to_hwc(image)).save(file, format="JPEG", quality=quality)
        found = np.asarray(Image.open(file))
    return found.reshape(*image.shape[1:], -1).transpose(2, 0, 1)


def _low_pass(images: Images, _: slice) -> NDArray[np.float32]:
    planes = images.reshape(-1, *images.shape[2:]).astype(np.float32)
    filtered = butterworth(planes, high_pass=False, channel_axis=0, **_LOW_PASS)
    return np.asarray(filtered.reshape(images.shape))


def _without_averages(images: Images, groups: Groups, bound: float) -> Images:
    """Each image less what is fine in its group's mean minus the whole's, within `bound`."""
    names, rows, counts = np.unique(groups, return_inverse=True, return_counts=True)
    sums = np.zeros((len(names), *images.shape[1:]))
    for row, image in zip(rows, images, strict=True):
        sums[row] += image
    common = sums / counts[:, None, None, None] - sums.sum(0) / len(images)
    height, width = images.shape[2:]
    common -= gaussian(common, sigma=(0, 0, height * _COARSE, width * _COARSE))
    common = common.clip(-bound, bound)
    return _changed(images, lambda chunk, part: chunk - common[rows[part]])


def _fit_on(images: Images, groups: Groups) -> NDArray[np.int64]:
    """Evenly spaced images, as many as can be fitted, of groups that have `_FEWEST` among them."""
    most = min(len(images), _FIT_IMAGES, max(1, _FIT_VALUES // images[0].size))
    chosen = np.linspace(0, len(images) - 1, most).round().astype(np.int64)
    names, counts = np.unique(groups[chosen], return_counts=True)
    return chosen[np.isin(groups[chosen], names[counts >= _FEWEST])]


def _projected(images: Images, groups: Groups) -> Images:
    """Each image less its part, about the mean, in the span of a linear classifier of `groups`."""
    chosen = _fit_on(images, groups)
    if len(np.unique(groups[chosen])) < 2:
        return images
    sample = images[chosen].reshape(len(chosen), -1).astype(np.float32) / 255
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # rough directions are good enough
        weights = LogisticRegression(max_iter=_FIT_ITERATIONS).fit(sample, groups[chosen]).coef_
    # Of three or more rows the last is minus the sum of the others.
    basis, _ = np.linalg.qr(weights[: max(1, len(weights) - 1)].T)
    centre = 255 * sample.mean(0)

    def project(chunk: Images, _: slice) -> NDArray[np.float32]:
        flat = chunk.reshape(len(chunk), -1).astype(np.float32)
        flat -= (flat - centre) @ basis @ basis.T
        return flat.reshape(chunk.shape)

    return _changed(images, project)


def _one_by_one(transform: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Batch]:
    return lambda images, labels: (torch.stack([transform(i) for i in images]), labels)


def _mixing(transform: Callable[[Tensor, Tensor], Batch]) -> Callable[[Tensor, Tensor], Batch]:
    return lambda images, labels: transform(images.float() / 255, labels)
