"""How to read the report of a sweep: its terms, with `*emphasis*` as in Markdown."""

from collections.abc import Iterator

_TERMS = {
    "Protection": (
        "A network is trained from scratch on protected images and tested on clean ones. Its "
        "accuracy is in per cent of the whole clean test set. The lower it is, the better the "
        "protection."
    ),
    "Effective batch B": (
        "Number of images that each generator sees in one optimizer step, however they are divided "
        "over devices and micro-batches. From *full batch* on, B is at least the number of images "
        "that the generator has."
    ),
    "Budget": (
        "*Equal epochs*: every B sees each image equally often, so a larger B takes fewer steps. "
        "*Equal steps*: every B takes the same number of steps, so a larger B sees more images."
    ),
    "Best B": (
        "The B with the lowest fitted mean accuracy; ≥ or ≤ if the accuracy stays lowest up to the "
        "largest or down to the smallest size tried. *As good*: sizes whose fitted accuracy is "
        "within {margin:g} points of the best. *Equivalent*: no two sizes can differ by more than "
        "that. *Cannot tell*: neither that nor an effect of B is shown."
    ),
    "Interval": (
        "95 %: for a mean, Student's t over seeds; for a fit or the best B, bootstrap. An interval "
        "that reaches an edge of the sizes tried does not exclude a best B beyond it."
    ),
    "Family, weight": (
        "Shapes that a curve may have (flat, monotone, step, quadratic, hinge), and how well the "
        "data support each of them (Akaike weight from AICc; the weights of a curve add up to 1)."
    ),
    "Instability": (
        "*Across seeds*: standard deviation of the final accuracy among runs that differ only in "
        "their seed. *Oscillation*: standard deviation of the accuracies of one run around a "
        "straight line through the last quarter of its epochs, so that a steady rise or fall does "
        "not count; unknown where that is fewer than three epochs. Both are in points. *Slope*: "
        "change of the log variance per doubling of B, ± its standard error. *Calmest*: lowest "
        "point of a parabola in log₂ B, meaningful where the valley is symmetric."
    ),
    "Critical batch": (
        "Prediction from the noise of the generators' gradient (its noise scale in the space of "
        "their parameters; McCandlish et al., 2018, arXiv 1812.06162). Well below it, twice the B "
        "needs nearly half the steps; above it, a larger B brings little. It is about the speed of "
        "training and the best B about protection: they need not agree. Median over runs and, in "
        "brackets, their middle 80 %. *Unbounded*: the gradient cannot be distinguished from its "
        "noise."
    ),
    "p": "p-value of a test of no effect, not corrected for the number of tests.",
}


def guide(*, margin: float, has_prediction: bool) -> Iterator[tuple[str, str]]:
    """Yield each term with its explanation.

    Args:
        margin: accuracies this close to the best are as good, in points.
        has_prediction: whether a critical batch is predicted for any curve.
    """
    for term, text in _TERMS.items():
        if has_prediction or term != "Critical batch":
            yield term, text.format(margin=margin)
