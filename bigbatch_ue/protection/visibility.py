"""How visible perturbations are: protected 8-bit images against their originals."""

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor
from torchmetrics.functional.image import lpips
from torchvision.models import AlexNet_Weights
from torchvision.transforms.v2.functional import resize

from bigbatch_ue.data.source import Pixels
from bigbatch_ue.runtime.errors import UserError

Distance = Callable[[Pixels, Pixels], float]

LEAST_LPIPS = 31
_ENLARGED = 64


@dataclass(frozen=True)
class Visibility:
    """How much images differ from their originals.

    Attributes:
        images: how many.
        unchanged: how many of them do not differ at all.
        linf: the largest change of any pixel, in 1/255.
        l2_mean: mean over the images of the L2 norm of an image's change, where white is 1.
        psnr_mean: in dB, mean over the images that differ; None if none does.
        psnr_min: the least of these.
        ssim_mean: mean over the images of 3 x 3 pixels or more; None if none is.
        lpips_mean: mean over the images; None where AlexNet's weights are not at hand.
    """

    images: int
    unchanged: int
    linf: int
    l2_mean: float
    psnr_mean: float | None
    psnr_min: float | None
    ssim_mean: float | None
    lpips_mean: float | None

    def __str__(self) -> str:
        psnr = (
            "-" if self.psnr_mean is None else f"{self.psnr_mean:.2f} dB (min {self.psnr_min:.2f})"
        )
        ssim = "-" if self.ssim_mean is None else f"{self.ssim_mean:.4f}"
        perceptual = "" if self.lpips_mean is None else f", LPIPS {self.lpips_mean:.4f}"
        return f"L-inf {self.linf}/255, PSNR {psnr}, SSIM {ssim}, L2 {self.l2_mean:.2f}{perceptual}"


class Change(NamedTuple):
    """What one image's change measures; the fields are as in `Visibility`."""

    linf: int
    l2: float
    psnr: float | None
    ssim: float | None


def measure_visibility(pairs: Iterable[tuple[Pixels, Pixels]]) -> Visibility:
    """Measure (original, protected) images, one pair after the other.

    Args:
        pairs: at least one, each of uint8 [C, h, w] of one size; sizes may differ between pairs.

    Raises:
        UserError: a file in the place of AlexNet's weights that does not hold them.
        ValueError: there are no pairs.
    """
    distance = load_lpips()
    linf, (l2, psnr, ssim, distances) = 0, (array("d") for _ in range(4))
    for original, protected in pairs:
        change = compare(original, protected)
        linf = max(linf, change.linf)
        l2.append(change.l2)
        if change.psnr is not None:
            psnr.append(change.psnr)
        if change.ssim is not None:
            ssim.append(change.ssim)
        if distance:
            distances.append(distance(original, protected))
    if not l2:
        raise ValueError("no images to compare")
    return Visibility(
        images=len(l2),
        unchanged=len(l2) - len(psnr),
        linf=linf,
        l2_mean=fmean(l2),
        psnr_mean=fmean(psnr) if psnr else None,
        psnr_min=min(psnr, default=None),
        ssim_mean=fmean(ssim) if ssim else None,
        lpips_mean=fmean(distances) if distances else None,
    )


def compare(original: Pixels, protected: Pixels) -> Change:
    """The change of one image, uint8 [C, h, w]; PSNR is None if nothing changed.

    SSIM is that of Wang et al. (2004) over windows of 7 x 7 pixels, or as large as the image takes;
    None below 3 x 3.
    """
    difference = protected.astype(np.int16) - original
    linf = int(np.abs(difference).max())
    l2 = float(np.linalg.norm(difference.ravel() / 255))
    psnr = float(peak_signal_noise_ratio(original, protected, data_range=255)) if linf else None
    return Change(linf, l2, psnr, _ssim(original, protected))


def load_lpips() -> Distance | None:
    """LPIPS with AlexNet (Zhang et al., 2018, arXiv 1801.03924), or None without its weights.

    Nothing is ever downloaded: torchvision's file of AlexNet's weights must be among torch.hub's
    checkpoints already. Grey images are repeated to three channels; an image with a side below
    `LEAST_LPIPS` pixels, too small for AlexNet, is enlarged bilinearly until that side has 64.

    Returns:
        A distance of two uint8 [C, h, w] images, 0 if they are equal.

    Raises:
        UserError: the file is there but does not hold AlexNet's weights.
    """
    name = AlexNet_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    file = Path(torch.hub.get_dir(), "checkpoints", name)
    if not file.is_file():
        return None
    network = _lpips_network(file)

    def distance(original: Pixels, protected: Pixels) -> float:
        with torch.inference_mode():
            value = network(_colour(original), _colour(protected), normalize=True)
        return float(value)

    return distance


def _ssim(original: Pixels, protected: Pixels) -> float | None:
    window = min(7, (min(original.shape[1:]) - 1) // 2 * 2 + 1)
    if window < 3:
        return None
    options = {"win_size": window, "data_range": 255, "channel_axis": 0}
    return float(structural_similarity(original, protected, **options))


def _lpips_network(file: Path) -> lpips._LPIPS:
    """torchmetrics' network; the weights are put in here, as it would load them with pickle."""
    with torch.random.fork_rng(devices=[]):
        network = lpips._LPIPS(pretrained=False, net="alex", pnet_rand=True)
    linear = _load(Path(lpips.__file__).with_name("lpips_models") / "alex.pth")
    try:
        whole = _load(file)
        features = {
            name: whole[f"features.{name.partition('.')[2]}"] for name in network.net.state_dict()
        }
        network.net.load_state_dict(features)
    except (OSError, EOFError, UnpicklingError, RuntimeError, KeyError, TypeError) as error:
        raise UserError(
            f"{file}: does not hold AlexNet's weights ({type(error).__name__}); remove it"
        ) from None
    for index, layer in enumerate(network.lins):
        layer.load_state_dict({"model.1.weight": linear[f"lin{index}.model.1.weight"]})
    return network


def _load(file: Path) -> Any:
    return torch.load(file, map_location="cpu", weights_only=True)


def _colour(image: Pixels) -> Tensor:
    """An image uint8 [C, h, w] as LPIPS takes it: float32 [1, 3, H, W] in [0, 1]."""
    colour = torch.from_numpy(image.astype(np.float32) / 255).expand(3, -1, -1)[None]
    small = min(image.shape[1:]) < LEAST_LPIPS
    return resize(colour, [_ENLARGED]) if small else colour
