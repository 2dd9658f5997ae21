"""What a sweep can find, beside what it costs."""

import pytest

from analysis.planner.design import plan_designs
from bigbatch_ue.config.load import load_config
from bigbatch_ue.config.schema import Config
from bigbatch_ue.sweeps.power import describe_power, detectable_change


@pytest.mark.parametrize(("sizes", "seeds"), [(3, 8), (7, 5), (9, 10)])
def test_the_listed_change_is_that_of_the_planner(sizes: int, seeds: int) -> None:
    (design,) = plan_designs([sizes], [seeds], effect=0.1, noise=0.05, growth=1, simulations=20)
    assert detectable_change(sizes, seeds) == pytest.approx(design.detectable / 0.05, rel=0.15)


def test_between_the_listed_designs_the_smaller_counts() -> None:
    assert detectable_change(8, 7) == detectable_change(7, 6) == 1.8
    assert detectable_change(50, 100) == detectable_change(12, 20)


def test_more_sizes_and_seeds_never_find_less() -> None:
    for sizes in (3, 5, 7, 9, 12):
        for fewer, more in ((2, 3), (5, 8), (10, 20)):
            few, many = detectable_change(sizes, fewer), detectable_change(sizes, more)
            assert few is not None
            assert many is not None
            assert many < few


def test_too_small_a_sweep_finds_nothing() -> None:
    assert detectable_change(2, 5) is detectable_change(5, 1) is None
    assert "at least 3 sizes and 2 seeds" in describe_power(runs(range(2), range(5)))


def runs(exponents: range, seeds: range, **settings: str) -> list[Config]:
    """The configurations of a curve of digits."""
    words = [f"{key}={value}" for key, value in settings.items()]
    return [
        load_config("digits", overrides=[f"batch.effective={2**k}", f"seed={seed}", *words])
        for k in exponents
        for seed in seeds
    ]


def test_what_is_found_is_that_of_a_curve_and_not_of_all_cells_together() -> None:
    seven = runs(range(1, 8), range(5))
    said = describe_power(seven)
    assert "1.9 times the noise of a run, 15 points at a noise of 8" in said
    assert "--sizes 7 --seeds 5" in said
    others = runs(range(5, 12), range(5), **{"optimizer.lr_rule": "sqrt"})
    assert describe_power([*seven, *others]) == said
