"""The gradient noise scale of each generator, from the micro-batches that a step takes anyway.

The scale is B_simple = tr(Sigma) / |G|^2, in images (McCandlish et al., "An Empirical Model of
Large-Batch Training", arXiv 1812.06162, equation 2.9). |G| is the norm of the expected gradient,
Sigma the covariance of a single image's gradient. Batches far below the scale average mostly noise;
batches far above it waste images. It depends on the space: `DeltaNoise` measures it for the
perturbation, `PieceNoise` with `parameter_sums` for the parameters of the generator.

A piece is the images of one generator in one micro-batch. Pieces k = 1 ... K of n_k images, n in
all, have mean gradients g_k, and g together. Since E|g_k|^2 = |G|^2 + tr(Sigma) / n_k, one-way
analysis of variance gives estimates without bias, however unequal the pieces are:

    tr(Sigma)  by  S = (sum_k n_k |g_k|^2 - n |g|^2) / (K - 1),    |G|^2  by  |g|^2 - S / n.

For equal pieces these are McCandlish's two estimators (appendix A.1), with the piece as B_small,
|G_small|^2 averaged over the K pieces, and all n images as B_big. The images of an epoch are drawn
without replacement, so G is the gradient over the population that the images are a sample of. Over
the N images themselves, |G|^2 is about tr(Sigma) / N larger.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from bigbatch_ue.networks.generator import GeneratorBank
from bigbatch_ue.runs.metrics_file import Moments

PIECES = 4
"""Pieces of a step whose gradients are kept whole."""


class DeltaNoise:
    """The pieces of one step on one rank, in the space of the perturbation.

    Memory is four numbers per generator.

    Args:
        batch: [p], B: images of each generator in the step, over all ranks. Losses are weighted by
            1/B.
    """

    def __init__(self, batch: Tensor) -> None:
        self._batch = batch.to(count_precision(batch.device))
        self._squares = torch.zeros_like(self._batch)
        self._pieces = torch.zeros_like(self._batch)
        self._images = torch.zeros_like(self._batch)

    def add(self, gradient: Tensor, count: Tensor) -> None:
        """Add the gradient of one micro-batch.

        Args:
            gradient: float32 [p, C, H, W], gradient of the sum of its weighted losses.
            count: [p], its images of each generator; 0 is allowed.
        """
        self._squares += _over(_squared(gradient, self._batch), count)
        self._pieces += count > 0
        self._images += count

    def sums(self, total: Tensor) -> Tensor:
        """Return the sums to reduce over ranks, [p, 4], for `estimate_moments`.

        Args:
            total: float32 [p, C, H, W], the sum of the gradients that were added.

        Returns:
            float64, or float32 where the device has no float64.
        """
        whole = _over(_squared(total, self._batch), self._images)
        return _sums(self._squares, whole, self._pieces, self._images)


class PieceNoise:
    """The gradients of the pieces of one step, for `parameter_sums` and `delta_sums`.

    The gradients of micro-batches are summed in a few pieces: micro-batch k of a rank belongs to
    piece (first + k) mod `pieces`. Memory is that of `pieces` delta leaves. Sum both attributes
    over ranks. Pass the rank as `first`, so that ranks with a single micro-batch fill different
    pieces.

    Args:
        batch: [p], B: images of each generator in the step, over all ranks. Losses are weighted by
            1/B.
        shape: (p, C, H, W) of the leaf.
        pieces: K, at least 2.
        first: piece of the first micro-batch.

    Attributes:
        gradients: float32 [K, p, C, H, W].
        counts: [K, p], images of each generator; float64, or float32 where the device has no
            float64.
    """

    def __init__(
        self, batch: Tensor, shape: Sequence[int], pieces: int = PIECES, first: int = 0
    ) -> None:
        self.batch = batch.to(count_precision(batch.device))
        self.gradients = torch.zeros(pieces, *shape, device=batch.device)
        self.counts = self.batch.new_zeros(pieces, len(batch))
        self._next = first

    def add(self, gradient: Tensor, count: Tensor, piece: int | None = None) -> None:
        """Add the gradient of one micro-batch to `piece`, or to the next in turn.

        The other arguments are those of `DeltaNoise.add`.
        """
        if piece is None:
            piece = self._next % len(self.gradients)
            self._next += 1
        self.gradients[piece] += gradient
        self.counts[piece] += count

    def delta_sums(self) -> Tensor:
        """Return the sums [p, 4] in the space of the perturbation, for `estimate_moments`.

        The pieces have been summed over ranks, so these sums are those of all.
        """
        squares, images = torch.zeros_like(self.batch), self.counts.sum(0)
        for gradient, count in zip(self.gradients, self.counts, strict=True):
            squares += _over(_squared(gradient, self.batch), count)
        whole = _over(_squared(self.gradients.sum(0), self.batch), images)
        return _sums(squares, whole, (self.counts > 0).sum(0), images)


def parameter_sums(bank: GeneratorBank, noise: PieceNoise, generators: Iterable[int]) -> Tensor:
    """Return the sums to reduce over ranks, in the space of each generator's parameters.

    By the chain rule, a gradient of the perturbation determines the gradient of the parameters. One
    batched vector-Jacobian product gives those of all pieces exactly. Generators are taken one at a
    time.

    Args:
        bank: whole (unsharded), with the parameters at which the gradients were computed. Its
            `grad` is not changed.
        noise: the pieces, summed over ranks.
        generators: indices of the generators to compute, some of all p.

    Returns:
        [p, 4] for `estimate_moments`; float64, or float32 where the device has no float64. Zero
        for other generators, and where fewer than two pieces have images.
    """
    sums = noise.batch.new_zeros(len(noise.batch), 4)
    for index in generators:
        batch, count = noise.batch[index], noise.counts[:, index]
        if (count > 0).sum() < 2:
            continue
        squares, whole = torch.zeros_like(count), torch.zeros_like(batch)
        with torch.enable_grad():
            delta = bank.perturbation(index)
        parameters, vectors = list(bank.generators[index].parameters()), noise.gradients[:, index]
        for gradients in torch.autograd.grad(delta, parameters, vectors, is_grads_batched=True):
            squares += _squared(gradients, batch)
            whole += _squared(gradients.sum(0, keepdim=True), batch)[0]
        squares, images = _over(squares, count).sum(), count.sum()
        sums[index] = _sums(squares, _over(whole, images), (count > 0).sum(), images)
    return sums


def estimate_moments(sums: Tensor) -> Moments:
    """Estimate tr(Sigma) and |G|^2 of each generator from sums [p, 4] over ranks.

    Over ranks, tr(Sigma) is averaged with weights K - 1 (degrees of freedom), |G|^2 with weights n.
    """
    scatter, freedom, signal, images = sums.double().cpu().unbind(1)
    return Moments((scatter / freedom).tolist(), (signal / images).tolist())


def summarise_noise(
    trace: ArrayLike, signal: ArrayLike, *, draws: int = 1000, seed: int = 0
) -> dict[str, Any] | None:
    """Compute the noise scale over all steps, in images, with a 95 % bootstrap interval.

    The scale of a cluster is sum_t trace / sum_t signal (a mean of ratios would be biased); that of
    the bank is the median over clusters.

    Neighbouring steps are correlated, so blocks of sqrt(T) steps are drawn, the same for all
    clusters. The blocks are circular (Politis and Romano 1992), so that every step has the same
    weight. One block fewer than fills T steps is drawn, which corrects the variance of few blocks
    (Rao and Wu 1988). In simulations of 60 to 600 steps this covers the truth in 90 to 96 % at an
    autocorrelation of up to 0.5. Shorter blocks, of T^(1/3) steps, do worse on correlated steps.

    Args:
        trace: [T, p], estimates of tr(Sigma) in the order of steps, NaN where there is none.
        signal: [T, p], estimates of |G|^2.
        draws: number of bootstrap samples.
        seed: seed of the bootstrap.

    Returns:
        None if nothing was measured. Otherwise, ready for JSON: `value`, `low` and `high` of the
        bank, `measurements` (steps with an estimate) and `per_cluster`, a list with `value`, `low`
        and `high` of each cluster. None means unbounded: no signal is visible in the noise. With
        fewer than two estimates the interval is from 0 to None.
    """
    moments = np.array([trace, signal], dtype=np.float64)
    known = np.isfinite(moments.sum(axis=0))
    measured = known.any(axis=1)
    steps = int(measured.sum())
    if steps == 0:
        return None
    moments = np.where(known, moments, 0)[:, measured]
    length = round(np.sqrt(steps))
    circle = np.concatenate([moments, moments[:, : length - 1]], axis=1)
    blocks = np.lib.stride_tricks.sliding_window_view(circle, length, axis=1).sum(axis=-1)
    drawn = np.random.default_rng(seed).multinomial(
        max(steps // length - 1, 1), np.full(steps, 1 / steps), size=draws
    )
    scale, resampled = _scale(moments.sum(axis=1)), _scale(drawn @ blocks)
    return {
        **_interval(np.nanmedian(scale), np.nanmedian(resampled, axis=1), steps),
        "measurements": steps,
        "per_cluster": [
            _interval(*cluster) for cluster in zip(scale, resampled.T, known.sum(0), strict=True)
        ],
    }


def count_precision(device: torch.device) -> torch.dtype:
    """Return the type of sums and counts: float64, or float32 where the device has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def _squared(gradient: Tensor, batch: Tensor) -> Tensor:
    """Return |B x gradient|^2 over all but the first dimension."""
    norm: Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1, dtype=batch.dtype)
    return (batch * norm).square()


def _over(square: Tensor, count: Tensor) -> Tensor:
    return torch.where(count > 0, square / count.clamp(min=1), 0)


def _sums(squares: Tensor, whole: Tensor, pieces: Tensor, images: Tensor) -> Tensor:
    """Return (K - 1) S, K - 1, n x signal and n, or zeros where K < 2.

    Args:
        squares: sum_k n_k |g_k|^2.
        whole: n |g|^2.
        pieces: K.
        images: n.
    """
    scatter, freedom = squares - whole, pieces - 1
    sums = torch.stack([scatter, freedom, whole - scatter / freedom, images], dim=-1)
    return torch.where(freedom[..., None] > 0, sums, 0)


def _scale(moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the ratio of moments [2, ...]: infinite without signal, NaN without either."""
    trace, signal = moments
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(signal < 0, np.inf, trace / signal)


def _interval(
    value: float, resampled: NDArray[np.float64], measurements: int
) -> dict[str, float | None]:
    ends = [0.0, np.inf]
    if measurements > 1:
        ends = np.nanquantile(resampled, [0.025, 0.975], method="inverted_cdf").tolist()
    named = zip(("value", "low", "high"), [float(value), *ends], strict=True)
    return {name: number if np.isfinite(number) else None for name, number in named}
