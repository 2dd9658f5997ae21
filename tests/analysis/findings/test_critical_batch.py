import math
from typing import Any

import pytest

from analysis.findings.critical_batch import span, statements
from analysis.findings.findings import Finding, Findings
from analysis.table.table import CriticalBatch
from tests.helpers.findings import CANNOT_TELL, a_curve, a_finding, a_fit, predictions

OF_12 = "gradient noise predicts a critical batch of 90 (middle 80 % of 12 runs: 80 to 100)"


@pytest.mark.parametrize(
    ("values", "changed", "says"),
    [
        (
            (80, 90, 100),
            {},
            f"{OF_12} at equal steps, and the best B measured, 64 (95 % interval 32 to 128), lies "
            "below it, though its interval reaches there.",
        ),
        ((80, 90, 100), {"interval": (32.2, 79.0)}, "64 (95 % interval 32 to 79), lies below it."),
        ((60, 90, 100), {}, "64 (95 % interval 32 to 128), lies inside that range."),
        ((20, 25, 30), {}, "lies above it."),
        ((20, 25, 33), {}, "lies above it, though its interval reaches there."),
        (
            (80, 90, 100),
            CANNOT_TELL,
            f"{OF_12} at equal steps, but no effect of B on protection is shown.",
        ),
        (
            (80, math.inf, math.inf),
            {},
            "of at least 80 (the gradient cannot be told from its noise in 8 of 12 runs) at equal "
            "steps, and the best B measured, 64 (95 % interval 32 to 128), lies below it",
        ),
        (
            (50, math.inf, math.inf),
            {},
            "64 (95 % interval 32 to 128), lies inside that range.",
        ),
        (
            (math.inf,),
            {},
            "that is too large to be measured (the gradient cannot be told from its noise in 12 "
            "of 12 runs) at equal steps.",
        ),
    ],
)
def test_a_sentence_says_the_prediction_and_where_the_best_batch_lies(
    values: tuple[float, ...], changed: dict[str, Any], says: str
) -> None:
    finding = a_finding(a_fit(**changed), critical=predictions(*values))
    said = statements(Findings((finding,)))["digits"]
    assert said.startswith("digits: gradient noise predicts a critical batch")
    assert says in said


def test_there_is_one_sentence_for_each_data_set_of_its_protected_curves() -> None:
    critical = predictions(80, 90, 100)
    budgets = [a_finding(budget=budget, critical=critical) for budget in ("epochs", "steps")]
    others = [
        a_finding(dataset="blood8", critical=predictions(math.nan)),
        a_finding(arm="random surrogate", critical=critical),
        Finding(a_curve(dataset="pets", critical=critical), None, None, None, problem="too few"),
    ]
    said = statements(Findings((*budgets, *others)))
    assert list(said) == ["digits", "pets"]
    assert said["digits"].count(" of 90 (middle 80 %") == 2
    assert "; of 90 (middle 80 % of 12 runs: 80 to 100) at equal steps, and" in said["digits"]
    assert said["pets"].endswith("at equal steps, but no best B could be fitted.")


def test_a_span_is_short() -> None:
    assert span(CriticalBatch(1234.4, 870, math.inf, 5, 1)) == "1,234 (870 to unbounded)"
    assert span(CriticalBatch(20, 20, 20, 1, 0)) == "20"
    assert span(CriticalBatch(math.inf, math.inf, math.inf, 4, 4)) == "unbounded"
