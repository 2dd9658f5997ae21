"""Visibility of perturbations: protected 8-bit images against their originals."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

import numpy as np
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from bigbatch_ue.data.source import Pixels


@dataclass(frozen=True)
class Visibility:
    """The differences between images and their originals.

    Attributes:
        images: number of images.
        unchanged: number of images that do not differ at all.
        linf: largest change of any pixel, in 1/255.
        l2_mean: mean L2 norm of an image's change, where white is 1.
        psnr_mean: mean PSNR in dB of the images that differ; None if none does.
        psnr_min: smallest of these.
        ssim_mean: mean SSIM of the images of at least 3 x 3 pixels; None if there is none.
        lpips_mean: mean LPIPS, in reports of earlier versions; None in new ones.
    """

    images: int
    unchanged: int
    linf: int
    l2_mean: float
    psnr_mean: float | None
    psnr_min: float | None
    ssim_mean: float | None
    lpips_mean: float | None = None

    def __str__(self) -> str:
        psnr = (
            "-" if self.psnr_mean is None else f"{self.psnr_mean:.2f} dB (min {self.psnr_min:.2f})"
        )
        ssim = "-" if self.ssim_mean is None else f"{self.ssim_mean:.4f}"
        return f"L-inf {self.linf}/255, PSNR {psnr}, SSIM {ssim}, L2 {self.l2_mean:.2f}"


class Change(NamedTuple):
    """The measures of one image's change; the fields are as in `Visibility`."""

    linf: int
    l2: float
    psnr: float | None
    ssim: float | None


def measure_visibility(pairs: Iterable[tuple[Pixels, Pixels]]) -> Visibility:
    """Measure (original, protected) images, one pair at a time.

    Args:
        pairs: at least one; each two uint8 [C, h, w] of one size, which may differ between pairs.

    Raises:
        ValueError: there are no pairs.
    """
    linf, (l2, psnr, ssim) = 0, (array("d") for _ in range(3))
    for original, protected in pairs:
        change = compare(original, protected)
        linf = max(linf, change.linf)
        l2.append(change.l2)
        if change.psnr is not None:
            psnr.append(change.psnr)
        if change.ssim is not None:
            ssim.append(change.ssim)
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
    )


def compare(original: Pixels, protected: Pixels) -> Change:
    """Measure the change of one image, uint8 [C, h, w].

    PSNR is None if nothing changed. SSIM (Wang et al., 2004) uses windows of 7 x 7 pixels, or the
    largest odd size that fits the image; it is None below 3 x 3.
    """
    difference = protected.astype(np.int16) - original
    linf = int(np.abs(difference).max())
    l2 = float(np.linalg.norm(difference.ravel() / 255))
    psnr = float(peak_signal_noise_ratio(original, protected, data_range=255)) if linf else None
    return Change(linf, l2, psnr, _ssim(original, protected))


def _ssim(original: Pixels, protected: Pixels) -> float | None:
    window = min(7, (min(original.shape[1:]) - 1) // 2 * 2 + 1)
    if window < 3:
        return None
    options = {"win_size": window, "data_range": 255, "channel_axis": 0}
    return float(structural_similarity(original, protected, **options))
