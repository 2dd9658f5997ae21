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
        "*Equal epochs*: every B passes equally often over the images, so a larger B takes fewer "
        "steps; the last batch of a pass may be filled up with further views. *Equal steps*: every "
        "B takes the same number of steps, so a larger B sees more images. Where a B takes as many "
        "steps under both, it is the same training."
    ),
    "Verdict": (
        "*Equivalent*: no two of the sizes tried can differ by more than {margin:g} points, as "
        "pairs of one-sided tests show. An *effect* of B: a test rejects a flat curve. *Cannot "
        "tell*: neither is shown; the largest difference that the data allow is said, and the "
        "straight change from the smallest to the largest B that such a design would find in 80 % "
        "of cases, if its curve were the only one of the report."
    ),
    "Expected accuracy": (
        "The drawn curve: a Gaussian process in log₂ B, which assumes no shape. It draws noisy "
        "means towards their neighbours, so that it differs from the means in the tables, and "
        "its lowest B need not be the size with the lowest mean."
    ),
    "Best B": (
        "The B with the lowest expected accuracy, if B is shown to matter. An interval that "
        "reaches the smallest or largest size tried does not exclude a best B beyond it. With "
        "fewer than five sizes, and between the two outermost ones, it is no finer than the "
        "sizes. *As good*: sizes that are all within {margin:g} points of the best size tried, "
        "whichever that is, with 95 % confidence; often none can be named."
    ),
    "Interval": (
        "95 %: for a mean, Student's t over seeds; for a curve or the best B, draws of what the "
        "noise of these runs may be. Seeds may have curves of their own in them, and sizes unequal "
        "noise."
    ),
    "Unprotected runs": (
        "Runs after which a network is within {margin:g} points of one trained on clean images; "
        "their share with its exact 95 % interval. Whether there are more at a larger B is tested "
        "by shuffling the runs of each seed over the sizes."
    ),
    "Seed, run, target": (
        "A *run* learns perturbations from one seed: a surrogate network is fitted, images are "
        "grouped into clusters, and a generator is trained for each. A *target* is a network that "
        "is trained on the protected images of a run, and tested."
    ),
    "Instability": (
        "*Across seeds*: standard deviation of the final accuracy among runs that differ only in "
        "their seed. *Oscillation*: standard deviation of the accuracies of one run around a "
        "straight line through the last quarter of its epochs, so that a steady rise or fall does "
        "not count; unknown where that is fewer than three epochs, or where an earlier version "
        "measured it with its trend. Both are in points; *largest B / smallest B* is their ratio "
        "along a straight line through the logarithms of all sizes. A claim rests on ranks, so "
        "that a single run cannot make it, and must hold for accuracies and for their log odds: "
        "spread that follows the mean is not instability. The interval of the ratio is that of "
        "independent, normal runs, and its width depends on their number alone. Where it lies "
        "beside 1 without a claim, ranks, log odds or distances from the level of each seed do not "
        "bear it out. *Even*: no two sizes can differ threefold."
    ),
    "Data sets together": (
        "Data sets that have arm, budget, learning-rate rule and scope in common. *Instability* is "
        "averaged over them, each in units of its own spread and along its own range of B; in one "
        "of them it may differ: whether the spread across seeds changes by the same factor in each "
        "is tested by Cochran's Q, with runs shuffled in their seed. *Unprotected runs* are "
        "counted over all. Whether accuracy changes by as many points in each is tested by "
        "comparing the slopes of the seeds (Welch's analysis of variance). Each is adjusted for "
        "the number of such tests, apart from those of single curves."
    ),
    "Critical batch": (
        "Prediction from the noise of the generators' gradient (its noise scale in the space of "
        "their parameters; McCandlish et al., 2018, arXiv 1812.06162). Well below it, twice the B "
        "needs nearly half the steps; above it, a larger B brings little. It is about the speed of "
        "training and the best B about protection: they need not agree. Median over runs and, in "
        "brackets, their middle 80 %. *Unbounded*: the gradient cannot be distinguished from its "
        "noise."
    ),
    "p": (
        "p-value of a test of no effect: whether B matters is an adaptive smooth test (Neyman), "
        "which allows for seeds with curves of their own and for sizes of unequal noise, and "
        "seldom finds a single odd size. Adjusted by Holm's method for the number of tests of "
        "the same question in this report: does B matter, does accuracy fall and rise, where are "
        "runs unstable, where are they unprotected, is it batch size or steps."
    ),
}


def guide(*, margin: float, has_prediction: bool, has_several: bool) -> Iterator[tuple[str, str]]:
    """Yield each term with its explanation.

    Args:
        margin: accuracies this close to the best are as good, in points.
        has_prediction: whether a critical batch is predicted for any curve.
        has_several: whether several data sets are looked at together.
    """
    optional = {"Critical batch": has_prediction, "Data sets together": has_several}
    for term, text in _TERMS.items():
        if optional.get(term, True):
            yield term, text.format(margin=margin)
