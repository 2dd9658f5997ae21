"""The planner: what a sweep can find, before it is run."""

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from analysis.planner.design import DesignPower, advice, noise_of, plan_designs, power_table
from analysis.table.table import write_table
from bigbatch_ue.runtime.errors import UserError
from tests.helpers.findings import a_table


@pytest.fixture(scope="module")
def designs() -> list[DesignPower]:
    return plan_designs([7], [3, 10], effect=0.15, noise=0.08, growth=4, simulations=60)


def test_more_seeds_find_more(designs: list[DesignPower]) -> None:
    few, many = designs
    assert (few.runs, many.runs) == (21, 70)
    for name in ("slope", "valley", "odd_size", "spread"):
        assert getattr(many, name) > getattr(few, name)
    assert many.detectable < 0.6 * few.detectable
    assert many.slope > 0.9
    assert not few.is_enough


def test_what_is_detectable_agrees_with_the_power() -> None:
    (design,) = plan_designs([7], [8], effect=0.115, noise=0.08, growth=1, simulations=80)
    assert design.detectable == pytest.approx(0.115, abs=0.025)
    assert design.slope == pytest.approx(0.8, abs=0.15)
    assert design.spread < 0.08


def test_without_an_effect_the_level_is_left() -> None:
    (design,) = plan_designs([5], [5], effect=1e-6, noise=0.1, growth=1, simulations=80)
    assert max(design.slope, design.valley, design.odd_size, design.spread) < 0.1


def test_the_cheapest_design_is_named() -> None:
    common = {"odd_size": 0.1, "spread": 0.2, "detectable": 0.1}
    dear = DesignPower(9, 12, slope=0.9, valley=0.95, **common)
    cheap = DesignPower(7, 12, slope=0.81, valley=0.85, **common)
    weak = DesignPower(5, 5, slope=0.9, valley=0.5, **common)
    assert "7 sizes and 12 seeds, 84 runs" in advice([weak, dear, cheap])
    assert advice([weak]).startswith("No design tried")


def test_the_table_fits_in_80_columns(designs: list[DesignPower]) -> None:
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(power_table(designs, effect=0.15, growth=4))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert f"{100 * designs[1].slope:.0f}" in text


def test_a_spread_that_is_not_tested_has_no_power() -> None:
    designs = plan_designs([3, 4], [3], effect=0.1, noise=0.08, growth=4, simulations=3)
    assert [np.isfinite(design.spread) for design in designs] == [False, True]
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(power_table(designs, effect=0.1, growth=4))
    assert " – " in console.export_text()


def test_data_sets_together_find_a_smaller_spread() -> None:
    alone, together = (
        plan_designs([6], [5], effect=0.1, noise=0.08, growth=3, datasets=n, simulations=40)[0]
        for n in (1, 4)
    )
    assert together.spread > alone.spread + 0.2


def test_noise_comes_from_points_or_from_a_table(tmp_path: Path) -> None:
    assert noise_of("8.5") == (0.085, "8.5 points")
    table = a_table(("digits",), budgets=("epochs",))
    random = np.random.default_rng(0)
    table["final_accuracy"] = 0.4 + 0.07 * random.normal(size=len(table)).clip(-3, 3)
    table["peak_accuracy"] = table["tail_accuracy"] = table["final_accuracy"]
    write_table(table, tmp_path)
    for place in (tmp_path, tmp_path / "table.csv"):
        std, words = noise_of(f"from:{place}")
        assert std == pytest.approx(0.07, rel=0.3)
        assert words.endswith("the median of 1 curve")


@pytest.mark.parametrize("text", ["-1", "0", "many", "60", "nan"])
def test_noise_of_no_size_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="expected points of accuracy"):
        noise_of(text)


def test_a_table_without_a_curve_is_refused(tmp_path: Path) -> None:
    write_table(a_table(("digits",), seeds=1, budgets=("epochs",)), tmp_path)
    with pytest.raises(UserError, match="no curve of protected images"):
        noise_of(f"from:{tmp_path}")


def test_too_small_a_design_is_refused() -> None:
    with pytest.raises(UserError, match="at least 3 sizes and 2 seeds"):
        plan_designs([2], [5], effect=0.1, noise=0.1, growth=2)
