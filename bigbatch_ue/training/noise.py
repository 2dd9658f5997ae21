"""The gradient noise scale of each generator, from the micro-batches that a step takes anyway.

B_simple = tr(Sigma) / |G|^2 (McCandlish et al., "An Empirical Model of Large-Batch Training",
arXiv 1812.06162, equation 2.9), in images: |G| is the norm of the expected gradient, Sigma the
covariance of one image's. Batches far below it average mostly noise, batches far above it waste
images. It depends on the space: `Pieces` measures it for the perturbation, `Groups` with
`parameter_sums` for the generator's parameters.

A piece is the images of one row (generator) in one micro-batch. Pieces k = 1 ... K of n_k images,
n in all, have mean gradients g_k and together g. Since E|g_k|^2 = |G|^2 + tr(Sigma) / n_k,
one-way analysis of variance estimates without bias, however unequal the pieces are,

    tr(Sigma)  by  S = (sum_k n_k |g_k|^2 - n |g|^2) / (K - 1),    |G|^2  by  |g|^2 - S / n.

For equal pieces these are McCandlish's two estimators (appendix A.1) with B_small the
piece, |G_small|^2 averaged over the K pieces, and B_big all n images. An epoch's images are drawn
without replacement, so G is the gradient over what the images are a sample of; over the N images
themselves |G|^2 is about tr(Sigma) / N larger.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from bigbatch_ue.networks.generator import GeneratorBank
from bigbatch_ue.runs.metrics_file import Moments

GRADIENT_PIECES = 4


class DeltaNoise:
    """The pieces of one step on one rank, in the perturbation's space; four numbers a row.

    Args:
        batch: [p], images in the step of each row over all ranks (B): losses are weighted by 1/B.
    """

    def __init__(self, batch: Tensor) -> None:
        self._batch = batch.to(_precision(batch.device))
        self._squares = torch.zeros_like(self._batch)
        self._pieces = torch.zeros_like(self._batch)
        self._images = torch.zeros_like(self._batch)

    def add(self, gradient: Tensor, count: Tensor) -> None:
        """Count a micro-batch in.

        Args:
            gradient: float32 [p, C, H, W], of its weighted losses, summed.
            count: [p], its images of each row; 0 is allowed.
        """
        self._squares += _over(_squared(gradient, self._batch), count)
        self._pieces += count > 0
        self._images += count

    def sums(self, total: Tensor) -> Tensor:
        """What ranks add up: [p, 4] for `estimates`, float64 where the device has it.

        Args:
            total: float32 [p, C, H, W], the sum of the gradients that were added.
        """
        whole = _over(_squared(total, self._batch), self._images)
        return _sums(self._squares, whole, self._pieces, self._images)


class ParameterNoise:
    """Sums of micro-batch gradients, kept for `parameter_sums`; memory is that of `groups` leaves.

    Micro-batch k of a rank goes to group (first + k) mod `groups`; a group is then one piece. Both
    attributes are to be summed over ranks; give `first` the rank, so that ranks which take a single
    micro-batch each still make several groups.

    Args:
        batch: [p], images in the step of each row over all ranks (B): losses are weighted by 1/B.
        shape: (p, C, H, W) of the leaf.
        groups: G, at least 2.
        first: the group of the first micro-batch.

    Attributes:
        gradients: float32 [G, p, C, H, W].
        counts: [G, p], images of each row, float64 where the device has it.
    """

    def __init__(
        self, batch: Tensor, shape: Sequence[int], groups: int = GRADIENT_PIECES, first: int = 0
    ) -> None:
        self.batch = batch.to(_precision(batch.device))
        self.gradients = torch.zeros(groups, *shape, device=batch.device)
        self.counts = self.batch.new_zeros(groups, len(batch))
        self._next = first

    def add(self, gradient: Tensor, count: Tensor) -> None:
        """Count a micro-batch in; arguments as those of `Pieces.add`."""
        group = self._next % len(self.gradients)
        self.gradients[group] += gradient
        self.counts[group] += count
        self._next += 1


def parameter_sums(bank: GeneratorBank, groups: ParameterNoise, rows: Iterable[int]) -> Tensor:
    """What ranks add up, in the space of each generator's parameters.

    The chain rule makes a parameter gradient of a perturbation gradient, so one batched
    vector-Jacobian product gives those of all groups, exactly. Generators are taken one at a time.

    Args:
        bank: whole (unsharded), with the parameters that the gradients were taken at; no `grad` of
            it is touched.
        groups: summed over ranks.
        rows: those to compute, a share of all p.

    Returns:
        [p, 4] for `estimates`, float64 where the device has it; zero in other rows, and where
        fewer than two groups have images.
    """
    sums = groups.batch.new_zeros(len(groups.batch), 4)
    for row in rows:
        batch, count = groups.batch[row], groups.counts[:, row]
        if (count > 0).sum() < 2:
            continue
        squares, whole = torch.zeros_like(count), torch.zeros_like(batch)
        with torch.enable_grad():
            delta = bank.perturbation(row)
        parameters, vectors = list(bank.generators[row].parameters()), groups.gradients[:, row]
        for gradients in torch.autograd.grad(delta, parameters, vectors, is_grads_batched=True):
            squares += _squared(gradients, batch)
            whole += _squared(gradients.sum(0, keepdim=True), batch)[0]
        squares, images = _over(squares, count).sum(), count.sum()
        sums[row] = _sums(squares, _over(whole, images), (count > 0).sum(), images)
    return sums


def estimate_moments(sums: Tensor) -> Moments:
    """Estimates of each row from [p, 4] sums over ranks: rank by rank, each with its own weight.

    tr(Sigma) is averaged with weights K - 1 (degrees of freedom), |G|^2 with weights n.
    """
    scatter, freedom, signal, images = sums.double().cpu().unbind(1)
    return Moments((scatter / freedom).tolist(), (signal / images).tolist())


def summarise_noise(
    trace: ArrayLike, signal: ArrayLike, *, draws: int = 1000, seed: int = 0
) -> dict[str, Any] | None:
    """The noise scale over the steps given, in images, with a 95 % bootstrap interval.

    A cluster's is sum_t trace / sum_t signal (a mean of ratios would be biased), the bank's the
    median over clusters. Neighbouring steps are correlated, so blocks of sqrt(T) steps are drawn,
    the same for all clusters: circular ones (Politis and Romano 1992), so that every step counts
    alike, and one fewer than fill T steps, which makes the variance of few blocks right (Rao and
    Wu 1988). In simulations of 60 to 600 steps that covers the truth in 90 to 96 % at an
    autocorrelation up to 0.5; shorter blocks, of T^(1/3), do worse on correlated steps.

    Args:
        trace: [T, p], estimates of tr(Sigma) in the order of steps, NaN where there was none.
        signal: [T, p], those of |G|^2.
        draws: bootstrap samples.
        seed: of the bootstrap.

    Returns:
        None if nothing was measured, else, ready for JSON, `value`, `low` and `high` of the bank,
        `measurements` (steps with an estimate) and `per_cluster`, a list with `value`, `low` and
        `high` of each. None is unbounded: no signal can be seen in the noise. With fewer than two
        estimates everything from 0 to None is possible.
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


class SmoothedNoiseScale:
    """The noise scale of each row while training: a ratio of exponential moving averages.

    tr(Sigma) and |G|^2 are averaged apart, with the same weights, decay^age: their sum, which
    would correct the start, cancels in the ratio. At a decay of 0.9 the variance is that of a mean
    of 19 steps, (1 + 0.9) / (1 - 0.9), and the trend of a run of 60 steps can still be seen.
    """

    def __init__(self, decay: float = 0.9) -> None:
        self.decay = decay
        self._sums: NDArray[np.float64] = np.zeros((2, 1))

    def update(self, trace: Sequence[float], signal: Sequence[float]) -> list[float | None]:
        """Count a step in: [p] each, NaN where there is no estimate.

        Returns:
            The scale of each row in images; None before any estimate and where no signal is seen.
        """
        sums = self.decay * self._sums + np.array([trace, signal], dtype=np.float64)
        self._sums = np.where(np.isnan(sums).any(axis=0), self._sums, sums)
        return [float(t / s) if s > 0 else None for t, s in self._sums.T]


def _precision(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def _squared(gradient: Tensor, batch: Tensor) -> Tensor:
    """|B x gradient|^2 over all but the first dimension."""
    norm: Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1, dtype=batch.dtype)
    return (batch * norm).square()


def _over(square: Tensor, count: Tensor) -> Tensor:
    return torch.where(count > 0, square / count.clamp(min=1), 0)


def _sums(squares: Tensor, whole: Tensor, pieces: Tensor, images: Tensor) -> Tensor:
    """(K - 1) S, K - 1, n x signal, n, or zeros where K < 2.

    Of sum_k n_k |g_k|^2 (`squares`), n |g|^2 (`whole`), K (`pieces`) and n (`images`).
    """
    scatter, freedom = squares - whole, pieces - 1
    sums = torch.stack([scatter, freedom, whole - scatter / freedom, images], dim=-1)
    return torch.where(freedom[..., None] > 0, sums, 0)


def _scale(moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ratio of [2, ...] moments: infinite without signal, NaN without either."""
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
