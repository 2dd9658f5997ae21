"""Countermeasures of a scraper: on all images, on each batch, or by adversarial training."""

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
from bigbatch_ue.data.source import Pixels, to_hwc
from bigbatch_ue.networks.classifier import Transform
from bigbatch_ue.runtime.progress import progress

ImageGroups = NDArray[np.int64]

_CHUNK = 64
_JPEG_QUALITY = {Countermeasure.JPEG75: 75, Countermeasure.JPEG10: 10}
_BLUR = {"kernel_size": [3, 3], "sigma": [0.8, 0.8]}
_BITS = 3
_LOW_PASS = {"cutoff_frequency_ratio": 0.25, "order": 2, "npad": 4}
_CUTOUT = {"p": 0.5, "scale": (0.25, 0.25), "ratio": (1.0, 1.0)}
_COARSE_SIGMA = 3 / 16
"""Standard deviation of the blur that defines coarse structure, as a fraction of the side."""
_MIN_GROUP_SIZE = 2
_MAX_FIT_IMAGES = 8192
_MAX_FIT_VALUES = 2**26
_MAX_FIT_ITERATIONS = 100


def applies(countermeasure: Countermeasure, channels: int) -> bool:
    """Return whether it changes images of so many channels: grey images are grey already."""
    return countermeasure is not Countermeasure.GREY or channels > 1


def preprocess_images(
    countermeasure: Countermeasure, images: Pixels, *, image_groups: ImageGroups, eps: float
) -> Pixels:
    """Apply a countermeasure to all train images before training; deterministic.

    - `jpeg75`, `jpeg10`: JPEG compression at that quality;
    - `grey`: luma in all three channels;
    - `blur`: Gaussian, 3 x 3 pixels;
    - `bit_depth`: 3 bits for each value (feature squeezing, Xu et al., NDSS 2018, arXiv
      1704.01155);
    - `low_pass`: Butterworth filter at half of the highest frequency;
    - `cluster_average`: subtract (group mean - overall mean). Averaging cancels the images and
      keeps the perturbation, which is constant within a group. Only the part that a Gaussian blur
      removes is subtracted, as images have more coarse structure in common, and it is clipped to
      +-`eps`;
    - `projection`: orthogonal to the linear features that separate the groups (Sandoval-Segura et
      al., NeurIPS 2023, arXiv 2305.19254).

    Args:
        countermeasure: one that acts during training leaves the images alone.
        images: uint8 [N, C, H, W], C 1 or 3; may be a memory map, which is read in chunks.
        image_groups: int64 [N], each image's group, for the attacks that know them.
        eps: bound of the perturbations, where white is 1.

    Returns:
        uint8 [N, C, H, W] in memory, or `images` itself where there is nothing to do.
    """
    match countermeasure:
        case Countermeasure.JPEG75 | Countermeasure.JPEG10:
            return _change(images, partial(_jpeg, quality=_JPEG_QUALITY[countermeasure]))
        case Countermeasure.GREY:
            grey = partial(T.rgb_to_grayscale, num_output_channels=images.shape[1])
            return _change(images, _with_torch(grey))
        case Countermeasure.BLUR:
            return _change(images, _with_torch(partial(T.gaussian_blur, **_BLUR)))
        case Countermeasure.BIT_DEPTH:
            return _change(images, _with_torch(partial(T.posterize, bits=_BITS)))
        case Countermeasure.LOW_PASS:
            return _change(images, _low_pass)
        case Countermeasure.CLUSTER_AVERAGE:
            return _subtract_averages(images, image_groups, 255 * eps)
        case Countermeasure.PROJECTION:
            return _project(images, image_groups)
        case _:
            return images


def batch_transform(countermeasure: Countermeasure, classes: int) -> Transform | None:
    """Return the function that changes each batch; random by torch's global generator.

    - `cutout`: every other image, at random, loses a square of half its side, which becomes black
      (DeVries and Taylor, 2017, arXiv 1708.04552, the variant that stays within the image);
    - `mixup`: Zhang et al., ICLR 2018, arXiv 1710.09412; alpha 1;
    - `cutmix`: Yun et al., ICCV 2019, arXiv 1905.04899; alpha 1;
    - `randaugment`: Cubuk et al., NeurIPS 2020, arXiv 1909.13719; 2 operations of magnitude 9.

    Args:
        countermeasure: one that does not act on batches gives None.
        classes: number of classes.

    Returns:
        A function of images uint8 [M, C, H, W] and labels int64 [M]. It returns the images, uint8
        or float32 in [0, 1], and the labels, or for mixtures the fraction of each class, float32
        [M, classes].
    """
    match countermeasure:
        case Countermeasure.CUTOUT:
            return _image_by_image(v2.RandomErasing(**_CUTOUT))
        case Countermeasure.RANDAUGMENT:
            return _image_by_image(v2.RandAugment())
        case Countermeasure.MIXUP:
            return _mix(v2.MixUp(num_classes=classes))
        case Countermeasure.CUTMIX:
            return _mix(v2.CutMix(num_classes=classes))
        case _:
            return None


def pgd(model: nn.Module, images: Tensor, targets: Tensor, *, eps: float, steps: int) -> Tensor:
    """Find images near `images` that `model` gets wrong, by projected gradient descent.

    Madry et al., ICLR 2018, arXiv 1706.06083: from a random start, by torch's global generator,
    `steps` steps of 2.5 `eps` / `steps` along the sign of the cross-entropy's gradient. The model
    is attacked in evaluation mode; its mode and gradients are left as they were.

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
    adversarial = torch.empty_like(images).uniform_(-eps, eps).add_(images).clamp(low, high)
    for _ in range(steps):
        adversarial.requires_grad_()
        loss = F.cross_entropy(model(adversarial), targets)
        (gradient,) = torch.autograd.grad(loss, adversarial)
        step = 2.5 * eps / steps * gradient.sign()
        adversarial = (adversarial.detach() + step).clamp(low, high)
    model.train(training)
    return adversarial


def _change(images: Pixels, change: Callable[[Pixels, slice], Any]) -> Pixels:
    """Apply `change` chunk by chunk, then round and clip to 8 bits; the result is in memory.

    `change` takes a chunk, uint8 [M, C, H, W], and its position among the images.
    """
    changed = np.empty(images.shape, np.uint8)
    with progress("countermeasure", "images", len(images)) as stage:
        for start in range(0, len(images), _CHUNK):
            position = slice(start, start + _CHUNK)
            values = np.asarray(change(images[position], position), np.float32)
            changed[position] = np.clip(np.rint(values), 0, 255)
            stage.advance(len(values))
    return changed


def _with_torch(change: Callable[[Tensor], Tensor]) -> Callable[[Pixels, slice], Tensor]:
    return lambda chunk, _: change(torch.from_numpy(np.array(chunk)))


def _jpeg(chunk: Pixels, _: slice, *, quality: int) -> Pixels:
    return np.stack([_compress(image, quality) for image in chunk])


def _compress(image: Pixels, quality: int) -> Pixels:
    """Write an image [C, H, W] as JPEG of that quality, and read it back."""
    with BytesIO() as file:
        Image.fromarray(to_hwc(image)).save(file, format="JPEG", quality=quality)
        pixels = np.asarray(Image.open(file))
    return pixels.reshape(*image.shape[1:], -1).transpose(2, 0, 1)


def _low_pass(chunk: Pixels, _: slice) -> NDArray[np.float32]:
    planes = chunk.reshape(-1, *chunk.shape[2:]).astype(np.float32)
    filtered = butterworth(planes, high_pass=False, channel_axis=0, **_LOW_PASS)
    return np.asarray(filtered.reshape(chunk.shape))


def _subtract_averages(images: Pixels, image_groups: ImageGroups, bound: float) -> Pixels:
    """Subtract the high-frequency part of (group mean - overall mean), clipped to +-`bound`."""
    _, group_of, sizes = np.unique(image_groups, return_inverse=True, return_counts=True)
    sums = np.zeros((len(sizes), *images.shape[1:]))
    for group, image in zip(group_of, images, strict=True):
        sums[group] += image
    common = sums / sizes[:, None, None, None] - sums.sum(0) / len(images)
    height, width = images.shape[2:]
    common -= gaussian(common, sigma=(0, 0, height * _COARSE_SIGMA, width * _COARSE_SIGMA))
    common = common.clip(-bound, bound)
    return _change(images, lambda chunk, position: chunk - common[group_of[position]])


def _project(images: Pixels, image_groups: ImageGroups) -> Pixels:
    """Remove each image's component, about the mean, in the span of a linear group classifier."""
    chosen = _sample(images, image_groups)
    if len(np.unique(image_groups[chosen])) < 2:
        return images
    sample = images[chosen].reshape(len(chosen), -1).astype(np.float32) / 255
    classifier = LogisticRegression(max_iter=_MAX_FIT_ITERATIONS)
    with progress("linear classifier of the groups"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # rough directions are good enough
        weights = classifier.fit(sample, image_groups[chosen]).coef_
    # Of three or more weight vectors, the last is minus the sum of the others.
    basis, _ = np.linalg.qr(weights[: max(1, len(weights) - 1)].T)
    centre = 255 * sample.mean(0)

    def project(chunk: Pixels, _: slice) -> NDArray[np.float32]:
        flat = chunk.reshape(len(chunk), -1).astype(np.float32)
        flat -= (flat - centre) @ basis @ basis.T
        return flat.reshape(chunk.shape)

    return _change(images, project)


def _sample(images: Pixels, image_groups: ImageGroups) -> NDArray[np.int64]:
    """Choose evenly spaced images for the classifier, of groups with several images among them."""
    count = min(len(images), _MAX_FIT_IMAGES, max(1, _MAX_FIT_VALUES // images[0].size))
    chosen = np.linspace(0, len(images) - 1, count).round().astype(np.int64)
    groups, sizes = np.unique(image_groups[chosen], return_counts=True)
    return chosen[np.isin(image_groups[chosen], groups[sizes >= _MIN_GROUP_SIZE])]


def _image_by_image(transform: Callable[[Tensor], Tensor]) -> Transform:
    return lambda images, labels: (torch.stack([transform(i) for i in images]), labels)


def _mix(transform: Transform) -> Transform:
    return lambda images, labels: transform(images.float() / 255, labels)
