"""The gradient noise scale: unbiased, exact in parameter space, its interval covers the truth."""

import json
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bigbatch_ue.config.sections import GeneratorConfig
from bigbatch_ue.networks.generator import GeneratorBank
from bigbatch_ue.runs.metrics_file import Moments
from bigbatch_ue.training.noise import (
    PIECES,
    DeltaNoise,
    PieceNoise,
    estimate_moments,
    parameter_sums,
    summarise_noise,
)

SHAPE = (2, 3, 8, 8)
MEAN, SIGMA = 0.3, torch.tensor([0.5, 3.0])
PIXELS = 3 * 8 * 8
TRACE = (PIXELS * SIGMA**2).tolist()
SIGNAL = [PIXELS * MEAN**2] * 2
RANKS = (
    [[7, 1], [1, 0], [4, 6], [0, 3]],
    [[2, 5], [9, 5]],
)
"""Images of both generators in each micro-batch of two ranks: unequal, some of them none."""
BATCH = torch.tensor([23.0, 20.0])

Micro = tuple[Tensor, Tensor]


def images(count: int, generator: int, random: torch.Generator) -> Tensor:
    """Gradients of a linear loss: each image's is drawn from N(MEAN, SIGMA^2)."""
    return MEAN + SIGMA[generator] * torch.randn(count, *SHAPE[1:], generator=random)


def micros(counts: list[list[int]], random: torch.Generator) -> Iterator[Micro]:
    """Gradients of losses weighted by 1/B, and images, of each micro-batch."""
    for count in counts:
        gradients = [images(n, g, random).sum(0) / BATCH[g] for g, n in enumerate(count)]
        yield torch.stack(gradients), torch.tensor(count)


def delta_sums(counts: list[list[int]], random: torch.Generator) -> Tensor:
    pieces, total = DeltaNoise(BATCH), torch.zeros(SHAPE)
    for gradient, count in micros(counts, random):
        pieces.add(gradient, count)
        total += gradient
    return pieces.sums(total)


def assert_unbiased(found: list[Moments], truth: Moments) -> None:
    """Means of estimates [repetitions, 2, p] are within 4 standard errors of the truth."""
    values = np.array(found)
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    distance = np.abs(values.mean(axis=0) - np.array(truth))
    assert (distance < 4 * error).all()
    assert (error < 0.2 * np.array(truth)).all(), "too few repetitions to tell"


def test_unequal_pieces_of_two_ranks_are_estimated_without_bias() -> None:
    random = torch.Generator().manual_seed(0)
    found = [estimate_moments(sum_of(delta_sums(r, random) for r in RANKS)) for _ in range(1500)]
    assert_unbiased(found, Moments(TRACE, SIGNAL))


def sum_of(tensors: Iterator[Tensor]) -> Tensor:
    return torch.stack(list(tensors)).sum(0)


def test_equal_pieces_give_the_two_estimators_of_mccandlish() -> None:
    random = torch.Generator().manual_seed(1)
    found = estimate_moments(delta_sums([[5, 4]] * 4, random))
    random.manual_seed(1)
    gradients = torch.stack([gradient for gradient, _ in micros([[5, 4]] * 4, random)]).double()
    for generator, small in enumerate((5, 4)):
        big = 4 * small
        pieces = gradients[:, generator].flatten(1) * BATCH[generator] / small
        small_square = pieces.square().sum(1).mean()
        big_square = pieces.mean(0).square().sum()
        signal = (big * big_square - small * small_square) / (big - small)
        trace = (small_square - big_square) / (1 / small - 1 / big)
        assert found.trace[generator] == pytest.approx(float(trace), rel=1e-5)
        assert found.signal[generator] == pytest.approx(float(signal), rel=1e-4)


def test_ranks_add_up_by_degrees_of_freedom_and_by_images() -> None:
    random = torch.Generator().manual_seed(2)
    sums = [delta_sums(counts, random) for counts in RANKS]
    first, second = (estimate_moments(s) for s in sums)
    both = estimate_moments(sums[0] + sums[1])
    assert both.trace[0] == pytest.approx((2 * first.trace[0] + 1 * second.trace[0]) / 3)
    assert both.signal[0] == pytest.approx((12 * first.signal[0] + 11 * second.signal[0]) / 23)
    assert both.signal[1] == pytest.approx((10 * first.signal[1] + 10 * second.signal[1]) / 20)


def test_a_generator_with_one_piece_has_no_estimate_and_leaves_others_theirs() -> None:
    random = torch.Generator().manual_seed(3)
    alone = delta_sums([[5, 0], [0, 6], [4, 0]], random)
    assert torch.equal(alone[1], torch.zeros(4, dtype=torch.float64))
    found = estimate_moments(alone)
    assert np.isnan([found.trace[1], found.signal[1]]).all()
    assert np.isfinite([found.trace[0], found.signal[0]]).all()
    other = delta_sums(RANKS[0], random)
    assert estimate_moments(alone + other).trace[1] == estimate_moments(other).trace[1]


@pytest.mark.parametrize("kind", [DeltaNoise, lambda batch: PieceNoise(batch, SHAPE)])
def test_memory_does_not_grow_with_the_micro_batches(
    kind: Callable[[Tensor], DeltaNoise | PieceNoise],
) -> None:
    random = torch.Generator().manual_seed(4)
    held = kind(BATCH)

    def size() -> int:
        return sum(v.numel() if isinstance(v, Tensor) else 1 for v in vars(held).values())

    before = size()
    for gradient, count in micros([[3, 2]] * 20, random):
        held.add(gradient, count)
    assert size() == before
    assert before <= (
        4 * 2 if kind is DeltaNoise else (PIECES + 1) * (torch.Size(SHAPE).numel() + 2)
    )


def test_sums_of_squares_keep_what_float32_would_cancel() -> None:
    """With |G|^2 at 1e7 times the scatter of pieces, the scatter is still right."""
    pieces = torch.full((2, 1, 1, 64, 64), 1.0)
    pieces[1] += 2**-12
    held = DeltaNoise(torch.ones(1))
    for piece in pieces:
        held.add(piece, torch.tensor([1]))
    found = estimate_moments(held.sums(pieces.sum(0)))
    assert found.trace[0] == pytest.approx(64 * 64 * 2**-24 / 2, rel=1e-6)


class _Linear(nn.Module):
    """An image that is linear in its parameters: each channel mixes those of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.mix(x)
        return mixed


def linear_bank() -> GeneratorBank:
    config = GeneratorConfig(width=1, eps=1.0, bound="tanh")
    bank = GeneratorBank(SHAPE[0], SHAPE[1], SHAPE[2], config, seed=0)
    bank.generators = nn.ModuleList(_Linear() for _ in range(SHAPE[0]))
    return bank


def parameter_noise(counts: list[list[int]], random: torch.Generator) -> PieceNoise:
    held = PieceNoise(BATCH, SHAPE)
    for gradient, count in micros(counts, random):
        held.add(gradient, count)
    return held


def test_a_linear_bank_has_the_noise_of_its_matrix() -> None:
    """With delta = A theta: tr(A' Sigma A) and |A' G|^2, A made of the bank's input alone."""
    bank, random = linear_bank(), torch.Generator().manual_seed(5)
    found = [
        estimate_moments(
            parameter_sums(bank, parameter_noise(RANKS[0] + RANKS[1], random), range(2))
        )
        for _ in range(600)
    ]
    inputs = torch.cat([bank.noise.flatten(2), torch.ones(2, 1, 64)], dim=1)  # of weights, bias
    trace = 3 * SIGMA**2 * inputs.square().sum((1, 2))
    signal = 3 * MEAN**2 * inputs.sum(2).square().sum(1)
    assert_unbiased(found, Moments(trace.tolist(), signal.tolist()))
    delta_scale = np.array(TRACE) / np.array(SIGNAL)
    assert ((trace / signal).numpy() < 0.5 * delta_scale).all(), "the two spaces should differ"


@pytest.fixture(params=["tanh", "clamp"])
def bank(request: pytest.FixtureRequest) -> GeneratorBank:
    config = GeneratorConfig(width=4, eps=0.5, bound=request.param)
    return GeneratorBank(SHAPE[0], SHAPE[1], SHAPE[2], config, seed=6)


def test_parameter_space_is_that_of_one_backward_pass_per_image(bank: GeneratorBank) -> None:
    """Against every image's own parameter gradient, through the bank's ordinary forward pass."""
    counts, pairs = [[3, 2], [1, 0], [4, 5], [0, 1], [2, 2]], ((0, 4), (1,), (2,), (3,))
    random = torch.Generator().manual_seed(7)
    held = parameter_noise(counts, random)
    random.manual_seed(7)
    alone: list[list[list[Tensor]]] = [[[], []] for _ in counts]
    for micro, count in enumerate(counts):
        for generator, n in enumerate(count):
            for image in images(n, generator, random):
                parameters = list(bank.generators[generator].parameters())
                gradients = torch.autograd.grad(bank()[generator], parameters, image)
                alone[micro][generator].append(torch.cat([g.flatten() for g in gradients]).double())
    found = estimate_moments(parameter_sums(bank, held, range(2)))
    for generator in range(2):
        groups = [[g for micro in group for g in alone[micro][generator]] for group in pairs]
        means = [torch.stack(group).mean(0) for group in groups if group]
        sizes = torch.tensor([len(group) for group in groups if group])
        everything = torch.stack([g for group in groups for g in group])
        scatter = sum(
            float(n * (mean - everything.mean(0)).square().sum())
            for n, mean in zip(sizes, means, strict=True)
        )
        trace = scatter / (len(means) - 1)
        signal = float(everything.mean(0).square().sum()) - trace / len(everything)
        assert found.trace[generator] == pytest.approx(trace, rel=1e-5)
        assert found.signal[generator] == pytest.approx(signal, abs=1e-5 * trace)


def test_generators_are_divided_among_ranks_and_no_gradient_changes(bank: GeneratorBank) -> None:
    random = torch.Generator().manual_seed(8)
    held = parameter_noise(RANKS[0], random)
    mark = torch.zeros(())
    for parameter in bank.parameters():
        parameter.grad = mark.expand(parameter.shape)
    with torch.no_grad():
        first, second = (parameter_sums(bank, held, [generator]) for generator in range(2))
    assert torch.equal(first[1], torch.zeros(4, dtype=torch.float64))
    assert torch.equal(second[0], torch.zeros(4, dtype=torch.float64))
    assert torch.equal(first + second, parameter_sums(bank, held, range(2)))
    assert all(p.grad is not None and not p.grad.any() for p in bank.parameters())


def test_single_micro_batches_of_ranks_fill_different_pieces() -> None:
    random = torch.Generator().manual_seed(9)
    ranks = []
    for rank, (gradient, count) in enumerate(micros([[3, 2]] * 5, random)):
        held = PieceNoise(BATCH, SHAPE, first=rank)
        held.add(gradient, count)
        ranks.append(held)
    counts = torch.stack([held.counts for held in ranks]).sum(0)
    assert counts.tolist() == [[6, 4], [3, 2], [3, 2], [3, 2]]
    random.manual_seed(9)
    together = parameter_noise([[3, 2]] * 5, random)
    gradients = torch.stack([held.gradients for held in ranks]).sum(0)
    assert torch.equal(gradients, together.gradients)
    assert torch.equal(counts, together.counts)


def steps(
    count: int, correlation: float, seed: int, scales: tuple[float, ...] = (200.0,)
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Estimates [count, p] around |G|^2 = 1 with an autoregressive error of 1.5, and around S."""
    normal = np.random.default_rng(seed).normal(size=(count, 2, len(scales)))
    for t in range(1, count):
        normal[t] *= np.sqrt(1 - correlation**2)
        normal[t] += correlation * normal[t - 1]
    return np.array(scales) * (1 + 0.2 * normal[:, 0]), 1 + 1.5 * normal[:, 1]


@pytest.mark.parametrize(("count", "correlation"), [(60, 0.0), (200, 0.0), (200, 0.5)])
def test_the_interval_covers_the_true_scale(count: int, correlation: float) -> None:
    covered = 0
    for seed in range(100):
        found = summarise_noise(*steps(count, correlation, seed), seed=seed)
        assert found is not None
        covered += found["low"] <= 200 and (found["high"] is None or found["high"] >= 200)
    assert 90 <= covered < 100


def test_a_clusters_scale_is_a_ratio_of_sums_and_the_banks_the_median() -> None:
    trace, signal = steps(400, 0.0, 0, scales=(100.0, 5000.0, 200.0))
    trace[5:50, 1] = np.nan
    signal[5:50, 1] = np.nan
    found = summarise_noise(trace, signal)
    assert found is not None
    expected = np.nansum(trace, 0) / np.nansum(signal, 0)
    clusters = found["per_cluster"]
    assert [c["value"] for c in clusters] == pytest.approx(expected)
    assert found["value"] == pytest.approx(np.median(expected))
    assert found["measurements"] == 400
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert all(c["low"] < c["value"] < c["high"] for c in [*clusters, found])
    assert clusters[2]["low"] <= found["low"]
    assert found["high"] <= clusters[1]["high"]
    assert summarise_noise(trace, signal) == found
    assert summarise_noise(trace, signal, seed=1) != found


def test_clusters_are_resampled_at_the_same_steps() -> None:
    """Three clusters with the same estimates: their median has the same interval as each."""
    trace, signal = (np.repeat(x, 3, axis=1) for x in steps(80, 0.0, 1))
    found = summarise_noise(trace, signal)
    assert found is not None
    assert {k: found[k] for k in ("value", "low", "high")} == found["per_cluster"][0]
    assert found["per_cluster"][0] == found["per_cluster"][2]


def test_both_moments_are_resampled_at_the_same_steps() -> None:
    _, signal = steps(80, 0.0, 1)
    found = summarise_noise(200 * (signal + 10), signal + 10)
    assert found is not None
    assert (found["low"], found["high"]) == (pytest.approx(200), pytest.approx(200))


def test_correlated_steps_make_the_interval_wider() -> None:
    def width(correlation: float) -> float:
        found = [summarise_noise(*steps(200, correlation, seed)) for seed in range(20)]
        return float(np.median([np.log(f["high"] / f["low"]) for f in found if f is not None]))

    assert width(0.7) > 1.5 * width(0.0)


def test_without_signal_the_scale_is_unbounded() -> None:
    trace, signal = steps(100, 0.0, 2, scales=(200.0, 200.0, 200.0))
    signal[:, 0] -= signal[:, 0].mean() + 0.01
    signal[:, 1] -= 10
    signal[:, 2] -= signal[:, 2].mean() - 0.1
    found = summarise_noise(trace, signal)
    assert found is not None
    near, never, hardly = found["per_cluster"]
    assert near["value"] is None
    assert near["high"] is None
    assert near["low"] > 200
    assert never == {"value": None, "low": None, "high": None}
    assert hardly["value"] == pytest.approx(trace[:, 2].sum() / signal[:, 2].sum())
    assert hardly["high"] is None
    assert found["value"] is None, "two of three clusters are unbounded"


def test_steps_and_clusters_without_estimates_are_left_out() -> None:
    trace, signal = steps(60, 0.5, 3, scales=(200.0, 300.0))
    plain = summarise_noise(trace, signal)
    gaps = np.full((180, 3), np.nan)
    holes = [gaps.copy(), gaps.copy()]
    for hole, values in zip(holes, (trace, signal), strict=True):
        hole[::3, :2] = values
    found = summarise_noise(*holes)
    assert plain is not None
    assert found is not None
    assert found["per_cluster"][:2] == plain["per_cluster"]
    assert found["per_cluster"][2] == {"value": None, "low": 0.0, "high": None}
    assert (found["value"], found["low"]) == (plain["value"], plain["low"])
    assert found["measurements"] == 60
    assert summarise_noise(gaps, gaps) is None
    assert summarise_noise(np.empty((0, 3)), np.empty((0, 3))) is None


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_few_steps_give_a_wide_interval(count: int) -> None:
    trace, signal = steps(count, 0.0, 4)
    found = summarise_noise(trace, signal + 10)
    assert found is not None
    assert found["measurements"] == count
    if count == 1:
        assert (found["low"], found["high"]) == (0.0, None)
    else:
        assert found["low"] < found["value"] < found["high"]
