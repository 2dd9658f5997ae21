"""What a sweep can find, said beside what it costs."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from bigbatch_ue.config.schema import Config

_SIZES = (3, 5, 7, 9, 12)
_DETECTABLE = {
    2: (7.1, 5.4, 4.3, 4.1, 3.5),
    3: (3.8, 3.2, 2.8, 2.6, 2.4),
    4: (3.0, 2.6, 2.3, 2.2, 1.8),
    5: (2.6, 2.3, 1.9, 1.9, 1.6),
    6: (2.3, 2.0, 1.8, 1.6, 1.4),
    8: (1.7, 1.6, 1.4, 1.3, 1.1),
    10: (1.5, 1.5, 1.3, 1.1, 1.0),
    15: (1.2, 1.1, 1.0, 0.9, 0.8),
    20: (1.0, 1.0, 0.8, 0.8, 0.7),
}
"""Straight change from the smallest to the largest B that is found in 80 % of sweeps.

By the number of seeds, and for each of `_SIZES`, in standard deviations of a run; simulated as
`python -m analysis design` does.
"""
_NOISE = 8
"""Standard deviation of a run in points, as on blood8."""


def detectable_change(sizes: int, seeds: int) -> float | None:
    """Return the change of accuracy that a sweep finds in 80 % of cases, in noises of a run.

    Between listed designs, that of the smaller one is returned. None if nothing can be found: with
    fewer than 3 sizes or 2 seeds.
    """
    if sizes < _SIZES[0] or seeds < min(_DETECTABLE):
        return None
    row = _DETECTABLE[max(listed for listed in _DETECTABLE if listed <= seeds)]
    return row[bisect_right(_SIZES, sizes) - 1]


def describe_power(runs: Sequence[Config]) -> str:
    """Say what the runs of a sweep find, and which command says more.

    A curve is all runs that differ in effective batch and seed only. Of several curves, the
    smallest is described.
    """
    curves: dict[tuple[Any, ...], list[Config]] = {}
    for run in runs:
        shared = {**run.axes, "effective_batch": None, "seed": None}
        curves.setdefault(tuple(shared.values()), []).append(run)
    sizes, seeds = min(
        (len({run.batch.effective for run in own}), len({run.seed for run in own}))
        for own in curves.values()
    )
    change = detectable_change(sizes, seeds)
    if change is None:
        return "what it can find: nothing; an effect of B needs at least 3 sizes and 2 seeds"
    return (
        f"what it can find in 80 % of cases: a straight change of accuracy of {change:g} times the "
        f"noise of a run, {change * _NOISE:.0f} points at a noise of {_NOISE}; more: python -m "
        f"analysis design --sizes {sizes} --seeds {seeds} --noise POINTS"
    )
