import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.image import lpips
from torchvision.models import AlexNet_Weights, alexnet

from bigbatch_ue.data.source import Pixels
from bigbatch_ue.protection.visibility import LEAST_LPIPS, compare, measure_visibility
from bigbatch_ue.runtime.errors import UserError

Save = Callable[[object], Path]


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Save:
    """Put something where torch.hub keeps AlexNet's weights, a temporary place, without network."""

    def blocked(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", blocked)
    monkeypatch.setattr(socket, "getaddrinfo", blocked)
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def save(content: object) -> Path:
        folder = tmp_path / "hub" / "checkpoints"
        folder.mkdir(parents=True)
        file = folder / Path(AlexNet_Weights.IMAGENET1K_V1.url).name
        torch.save(content, file)
        return file

    return save


@pytest.fixture(scope="module")
def features() -> torch.nn.Sequential:
    torch.manual_seed(0)
    net: torch.nn.Sequential = alexnet(weights=None).features
    return net.eval().requires_grad_(False)


def weights(features: torch.nn.Sequential) -> dict[str, Tensor]:
    return {f"features.{name}": value for name, value in features.state_dict().items()}


def pair(*shape: int, seed: int = 0) -> tuple[Pixels, Pixels]:
    random = np.random.default_rng(seed)
    original = random.integers(256, size=shape, dtype=np.uint8)
    changed = np.clip(original + random.integers(-16, 17, shape), 0, 255)
    return original, changed.astype(np.uint8)


def zhang(features: torch.nn.Sequential, a: Tensor, b: Tensor) -> float:
    """The distance of equation 1 of Zhang et al. (2018), of float [1, 3, H, W] in [-1, 1]."""
    file = Path(lpips.__file__).with_name("lpips_models") / "alex.pth"
    linear = torch.load(file, map_location="cpu", weights_only=True)
    shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]
    a, b = (a - shift) / scale, (b - shift) / scale
    total, relus = 0.0, 0
    for layer in list(features)[:12]:
        a, b = layer(a), layer(b)
        if isinstance(layer, torch.nn.ReLU):
            difference = (F.normalize(a, dim=1) - F.normalize(b, dim=1)) ** 2
            weight = linear[f"lin{relus}.model.1.weight"][0]
            total += float((weight * difference[0]).sum(0).mean())
            relus += 1
    assert relus == 5
    return total


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


def test_images_of_any_size_are_summed_up_one_after_the_other(checkpoint: Save) -> None:
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


# -- LPIPS ---------------------------------------------------------------------------------------


def as_input(image: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(image).expand(3, -1, -1)[None] / 127.5 - 1


@pytest.mark.parametrize("shape", [(3, 40, 33), (1, LEAST_LPIPS, LEAST_LPIPS)])
def test_lpips_equals_the_formula(
    checkpoint: Save, features: torch.nn.Sequential, shape: tuple[int, int, int]
) -> None:
    checkpoint(weights(features))
    original, changed = pair(*shape)
    expected = zhang(features, as_input(original), as_input(changed))
    found = measure_visibility([(original, changed)])
    assert expected > 0
    assert found.lpips_mean == pytest.approx(expected, rel=1e-4)
    assert str(found).endswith(f", LPIPS {found.lpips_mean:.4f}")
    assert measure_visibility(
        [(original, changed), (changed, changed)]
    ).lpips_mean == pytest.approx(expected / 2, rel=1e-4)


@pytest.mark.parametrize(("shape", "size"), [((1, 28, 28), (64, 64)), ((3, 16, 40), (64, 160))])
def test_lpips_of_small_images_is_that_of_enlarged_ones(
    checkpoint: Save,
    features: torch.nn.Sequential,
    shape: tuple[int, int, int],
    size: tuple[int, int],
) -> None:
    checkpoint(weights(features))
    images = pair(*shape)
    a, b = (F.interpolate(as_input(image), size, mode="bilinear") for image in images)
    assert measure_visibility([images]).lpips_mean == pytest.approx(zhang(features, a, b), rel=1e-4)


def test_smaller_images_do_not_fit_alexnet(features: torch.nn.Sequential) -> None:
    images = torch.zeros(1, 3, LEAST_LPIPS, LEAST_LPIPS)
    first = torch.nn.Sequential(*list(features)[:12])
    first(images)
    with pytest.raises(RuntimeError, match="too small"):
        first(images[..., 1:])


def test_lpips_leaves_torchs_random_numbers_alone(
    checkpoint: Save, features: torch.nn.Sequential
) -> None:
    checkpoint(weights(features))
    before = torch.get_rng_state()
    measure_visibility([pair(1, 8, 8)])
    assert torch.equal(torch.get_rng_state(), before)


class Malicious:
    """Unpickling it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.file,)


def test_weights_that_are_a_program_are_not_run(checkpoint: Save, tmp_path: Path) -> None:
    file = checkpoint({"features.0.weight": Malicious(tmp_path / "run")})
    with pytest.raises(UserError, match=f"{file.name}: does not hold AlexNet's weights"):
        measure_visibility([pair(1, 8, 8)])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["cut", "empty", "list", "incomplete", "of another shape"])
def test_damaged_weights_are_refused(
    checkpoint: Save, features: torch.nn.Sequential, kind: str
) -> None:
    content = weights(features)
    if kind == "incomplete":
        del content["features.10.bias"]
    elif kind == "of another shape":
        content["features.10.bias"] = torch.zeros(3)
    file = checkpoint([1] if kind == "list" else content)
    if kind in ("cut", "empty"):
        file.write_bytes(file.read_bytes()[: 1000 if kind == "cut" else 0])
    with pytest.raises(UserError, match=r"alexnet.*does not hold AlexNet's weights"):
        measure_visibility([pair(1, 8, 8)])
