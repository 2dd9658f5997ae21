"""The committed calibration is that of the cases as they are now."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.analysis.calibration import ALIKE, Case, cases, page, run_case

COMMITTED = Path(__file__).resolve().parents[2] / "analysis/examples/calibration"
CASES = list(cases())


def test_every_case_is_measured_and_the_page_is_made_of_the_figures() -> None:
    found = pd.read_csv(COMMITTED / "cases.csv")
    measured = set(zip(found["part"], found["case"], strict=True))
    assert measured == {(case.part, case.name) for case in CASES}
    assert found["count"].max() == 200
    order = {(case.part, case.name): place for place, case in enumerate(CASES)}
    places = [order[key] for key in zip(found["part"], found["case"], strict=True)]
    found = found.assign(place=places).sort_values("place", kind="stable")
    assert (COMMITTED / "README.md").read_text() == page(found, 200)


def test_the_figures_are_good_enough_for_what_the_documentation_says() -> None:
    found = pd.read_csv(COMMITTED / "cases.csv").set_index(["part", "measure"])["value"]
    assert found["The best B", "best B in its interval"].min() >= 0.9
    assert found["No effect", "effect found"].max() <= 0.13
    assert found["Nothing unstable"].max() <= 0.07
    assert found[ALIKE].max() <= 0.08


@pytest.mark.parametrize(
    "place", list({case.part: place for place, case in enumerate(CASES)}.values())
)
def test_a_case_of_every_part_can_be_simulated_again(place: int) -> None:
    case: Case = CASES[place]
    rows = run_case(place, 2)
    assert (rows["case"] == case.name).all()
    assert np.isfinite(rows["value"]).any()
    pd.testing.assert_frame_equal(rows, run_case(place, 2))
