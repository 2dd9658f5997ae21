"""The power of designs: how often a sweep of so many sizes and seeds finds an effect of B."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.table import Table

from analysis.fits.contrasts import SmoothTest
from analysis.fits.instability import deviations_across_seeds, fit_instability, pool
from analysis.fits.intervals import ALPHA
from analysis.fits.runs import TwoWay, successful_runs
from analysis.fits.seed_noise import draw_noise
from analysis.table.table import Floats, curves, read_table
from bigbatch_ue.config.names import ArmName
from bigbatch_ue.evaluation.arms import ARM_NAMES
from bigbatch_ue.reporting.words import DASH, counted
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.progress import progress

POWER = 0.8
"""Power that a design should have."""

_DRAWS = 500
_DETECTABLE = 20
"""Number of simulations for which the detectable change is computed."""
_PREFIX = "from:"


@dataclass(frozen=True)
class DesignPower:
    """What a design finds, at a level of 5 %.

    Attributes:
        sizes: number of effective batches.
        seeds: number of seeds at each.
        slope: power to find an effect that is a straight line from the smallest to the largest B.
        valley: power to find one that falls and rises by as much, lowest in the middle.
        odd_size: power to find one size that is better than all others.
        spread: power to find a standard deviation that grows from the smallest to the largest B,
            in the data sets together; NaN with fewer than four sizes, where it is not tested.
        detectable: change along a straight line that is found with 80 % power, in accuracy.
    """

    sizes: int
    seeds: int
    slope: float
    valley: float
    odd_size: float
    spread: float
    detectable: float

    @property
    def runs(self) -> int:
        """Number of runs."""
        return self.sizes * self.seeds

    @property
    def is_enough(self) -> bool:
        """Whether both a slope and a valley are found with 80 % power."""
        return min(self.slope, self.valley) >= POWER


def noise_of(text: str) -> tuple[float, str]:
    """Return the standard deviation of a run, as a fraction, and where it comes from, in words.

    Args:
        text: a number of points, or `from:TABLE`: a table.csv, or the folder of one.

    Raises:
        UserError: it is neither, or the table has no curve of protected images that can be fitted.
    """
    if not text.startswith(_PREFIX):
        try:
            points = float(text)
        except ValueError:
            points = -1.0
        if not 0 < points <= 50:
            raise UserError(
                f"--noise {text}: expected points of accuracy, above 0 and at most 50, or "
                f"{_PREFIX}TABLE"
            )
        return points / 100, f"{points:g} points"
    path = Path(text.removeprefix(_PREFIX))
    table = read_table(path / "table.csv" if path.is_dir() else path)
    found = []
    for curve in curves(table):
        try:
            fit = TwoWay(successful_runs(curve.batches, curve.accuracy))
        except UserError:
            continue
        if curve.arm == ARM_NAMES[ArmName.UC]:
            noise = draw_noise(fit, _DRAWS, np.random.default_rng(0))
            found.append(float(np.sqrt(np.mean(noise.std**2))))
    if not found:
        raise UserError(
            f"{path}: has no curve of protected images with enough runs; give --noise in points"
        )
    low, middle, high = (100 * value for value in (min(found), np.median(found), max(found)))
    words = f"{middle:.1f} points, the median of {counted(len(found), 'curve')}"
    return middle / 100, words + (f" ({low:.1f} to {high:.1f})" if len(found) > 1 else "")


def plan_designs(
    sizes: Sequence[int],
    seeds: Sequence[int],
    *,
    effect: float,
    noise: float,
    growth: float,
    datasets: int = 1,
    simulations: int = 200,
) -> list[DesignPower]:
    """Simulate sweeps of every number of sizes and of seeds, and test them as `fit` does.

    The p-value is not adjusted: that of a report with several curves needs more runs.

    Args:
        sizes: numbers of effective batches, each at least 3.
        seeds: numbers of seeds, each at least 2.
        effect: difference in accuracy between the best and the worst size.
        noise: standard deviation of a run, apart from the level of its seed.
        growth: standard deviation at the largest B divided by that at the smallest.
        datasets: number of data sets over which the growth is pooled.
        simulations: number of simulated sweeps of each design.

    Raises:
        UserError: a number is too small.
    """
    if min(sizes) < 3 or min(seeds) < 2:
        raise UserError("design: needs at least 3 sizes and 2 seeds; raise --sizes or --seeds")
    grid = [(k, n) for k in sorted(set(sizes)) for n in sorted(set(seeds))]
    with progress("simulating sweeps", "designs", len(grid)) as stage:
        return [
            _power(k, n, effect, noise, growth, datasets, simulations) for k, n in stage.track(grid)
        ]


def _power(
    k: int, n: int, effect: float, noise: float, growth: float, datasets: int, simulations: int
) -> DesignPower:
    random = np.random.default_rng([k, n])
    batches, z = 2 ** np.arange(k), np.linspace(0, 1, k)
    odd = np.ones(k)
    odd[k // 2] = 0
    valley = (z - 0.5) ** 2 - ((z - 0.5) ** 2).min()
    shapes = effect * np.stack([z, valley / valley.max(), odd])
    found, spreads, detectable = np.zeros(3), 0.0, []
    for simulation in range(simulations):
        errors = noise * random.normal(size=(k, n))
        fit = TwoWay(successful_runs(batches, errors))
        test = SmoothTest(fit.runs.x, draw_noise(fit, _DRAWS, random).errors)
        found += test.p(fit.means + shapes) < ALPHA
        if simulation < _DETECTABLE:
            detectable.append(test.detectable)
        others = noise * random.normal(size=(datasets - 1, k, n))
        spreading = np.concatenate([errors[None], others]) * growth ** (z - 0.5)[:, None]
        spreads += _finds_spread(batches, spreading, simulation)
    on_slope, in_valley, at_odd_size = (found / simulations).tolist()
    return DesignPower(
        sizes=k,
        seeds=n,
        slope=on_slope,
        valley=in_valley,
        odd_size=at_odd_size,
        spread=spreads / simulations,
        detectable=float(np.mean(detectable)),
    )


def _finds_spread(batches: NDArray[np.int64], errors: Floats, seed: int) -> float:
    """Return 1 if a growing spread is found in errors [datasets, k, n], else 0; NaN if untested."""
    deviations = [
        deviations_across_seeds(batches, accuracy, resolution=0.001)
        for accuracy in (0.5 + errors).clip(0.01, 0.99)
    ]
    pooled = pool(deviations) if len(deviations) > 1 else deviations[0]
    fit = fit_instability("seeds", pooled, draws=10, seed=seed)
    return float(fit.trend_p < ALPHA and fit.rises) if pooled.can_be_tested else math.nan


def power_table(designs: Iterable[DesignPower], *, effect: float, growth: float) -> Table:
    """Return a table that fits in 80 columns, with a row for each design; power in per cent."""
    table = Table(
        title=f"power to find {100 * effect:g} points, or a spread that grows {growth:g} times, %",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    heads = (
        "sizes",
        "seeds",
        "runs",
        "slope",
        "valley",
        "one\nsize",
        "spread",
        "80 % find\npoints",
    )
    for head in heads:
        table.add_column(head, justify="right")
    for design in designs:
        powers = (design.slope, design.valley, design.odd_size, design.spread)
        table.add_row(
            *map(str, (design.sizes, design.seeds, design.runs)),
            *(f"{100 * power:.0f}" if math.isfinite(power) else DASH for power in powers),
            f"{100 * design.detectable:.0f}",
            style="bold" if design.is_enough else "",
        )
    return table


def advice(designs: Sequence[DesignPower]) -> str:
    """Say which design is the cheapest that finds a slope and a valley with 80 % power."""
    enough = [design for design in designs if design.is_enough]
    if not enough:
        return (
            "No design tried finds both a slope and a valley with 80 % power; plan more seeds, or "
            "look for a larger effect."
        )
    best = min(enough, key=lambda design: design.runs)
    return (
        f"Cheapest with 80 % power for a slope and a valley: {best.sizes} sizes and "
        f"{best.seeds} seeds, {best.runs} runs for each data set and budget."
    )
