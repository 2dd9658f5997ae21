"""Visibility of a change: the formulas, and sums over images of any size."""

import numpy as np
import pytest

from bigbatch_ue.data.source import Pixels
from bigbatch_ue.protection.visibility import compare, measure_visibility


def pair(*shape: int, seed: int = 0) -> tuple[Pixels, Pixels]:
    random = np.random.default_rng(seed)
    original = random.integers(256, size=shape, dtype=np.uint8)
    changed = np.clip(original + random.integers(-16, 17, shape), 0, 255)
    return original, changed.astype(np.uint8)


# -- one image -----------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_compare_equals_the_formulas(channels: int) -> None:
    a, b = pair(channels, 12, 15)
    linf, l2, psnr, ssim = compare(a, b)
    x, y = a.astype(float), b.astype(float)
    assert linf == np.abs(x - y).max()
    assert l2 == pytest.approx(np.sqrt((((x - y) / 255) ** 2).sum()))
    assert psnr == pytest.approx(10 * np.log10(255**2 / np.mean((x - y) ** 2)))
    window, (c1, c2) = (7, 7), ((0.01 * 255) ** 2, (0.03 * 255) ** 2)
    wx, wy = (np.lib.stride_tricks.sliding_window_view(v, window, (1, 2)) for v in (x, y))
    axes = (-2, -1)
    mx, my = wx.mean(axes), wy.mean(axes)
    vx, vy = wx.var(axes, ddof=1), wy.var(axes, ddof=1)
    cov = ((wx - mx[..., None, None]) * (wy - my[..., None, None])).sum(axes) / 48
    map_ = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    assert ssim == pytest.approx(map_.mean(), rel=1e-6)


def test_compare_of_equal_and_of_tiny_images() -> None:
    image = np.full((1, 8, 8), 7, np.uint8)
    assert compare(image, image) == (0, 0.0, None, 1.0)
    assert compare(image[:, :2], image[:, :2] + np.uint8(1)).ssim is None


def test_changes_by_the_whole_range_do_not_wrap() -> None:
    black, white = np.zeros((1, 4, 4), np.uint8), np.full((1, 4, 4), 255, np.uint8)
    for change in (compare(black, white), compare(white, black)):
        assert (change.linf, change.l2, change.psnr) == (255, 4.0, 0.0)


# -- many images ---------------------------------------------------------------------------------


def test_images_of_any_size_are_summed_up_one_after_the_other() -> None:
    pairs = [pair(3, 9, 12), pair(1, 2, 9), pair(3, 20, 8)]
    same = pairs[0][0]
    changes = [compare(*images) for images in pairs]
    found = measure_visibility(iter([*pairs, (same, same)]))
    assert (found.images, found.unchanged) == (4, 1)
    assert found.linf == max(change.linf for change in changes)
    assert found.l2_mean == pytest.approx(sum(change.l2 for change in changes) / 4)
    psnr = [change.psnr for change in changes if change.psnr is not None]
    assert found.psnr_mean == pytest.approx(np.mean(psnr))
    assert found.psnr_min == min(psnr)
    first, last = changes[0].ssim, changes[2].ssim
    assert first is not None
    assert last is not None
    assert found.ssim_mean == pytest.approx((first + 1 + last) / 3)
    assert found.lpips_mean is None
    assert str(found) == (
        f"L-inf 16/255, PSNR {found.psnr_mean:.2f} dB (min {found.psnr_min:.2f}), "
        f"SSIM {found.ssim_mean:.4f}, L2 {found.l2_mean:.2f}"
    )


def test_no_images_are_refused() -> None:
    with pytest.raises(ValueError, match="no images"):
        measure_visibility([])
