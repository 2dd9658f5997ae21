"""What the accuracies of an evaluation show, in words."""

from dataclasses import dataclass

from bigbatch_ue.reporting.statistics import Summary
from bigbatch_ue.reporting.words import interval, percent

LEAST_IMAGES = 6
"""Smallest difference, in test images, that a test can show.

Of fewer, all in favour of one side, McNemar's exact two-sided test gives p = 2 / 2^n > 0.05.
"""
_LITTLE, _MOST = 1 / 3, 2 / 3
"""Shares of what clean images teach, between which protection is partial."""
ADVICE = 'see "If it does not protect" in docs/protection.md'


@dataclass(frozen=True)
class Difference:
    """A difference of accuracies on the same test images.

    Attributes:
        gain: the difference, seed by seed.
        test_images: number of test images.
    """

    gain: Summary
    test_images: int

    @property
    def images(self) -> int:
        """The mean difference in test images, without its sign."""
        return round(abs(self.gain.mean) * self.test_images)

    @property
    def is_resolved(self) -> bool:
        """Whether the test set is large enough to show a difference of this size."""
        return self.images >= LEAST_IMAGES

    @property
    def sign(self) -> int:
        """1 or -1 if the difference is shown to be above or below 0; otherwise 0."""
        low, high = self.gain.low, self.gain.high
        if not self.is_resolved or low is None or high is None:
            return 0
        return int(low > 0) - int(high < 0)

    def __str__(self) -> str:
        """Return the difference in points with its interval, and in images if they are few."""
        points = f"{100 * self.gain.mean:+.1f} points"
        if not self.is_resolved:
            return f"{points}, {self.images} of {self.test_images} test images"
        if self.gain.low is None or self.gain.high is None:
            return points
        return f"{points} [{interval(self.gain.low, self.gain.high)}]"


@dataclass(frozen=True)
class Comparison:
    """The learned perturbations against a control.

    Attributes:
        control: the control, in words.
        difference: accuracy after training on the control minus that on the protected images.
    """

    control: str
    difference: Difference

    def __str__(self) -> str:
        """Say in words whether the learned perturbations protect better than the control."""
        if self.difference.is_resolved and self.difference.gain.count == 1:
            return f"{self.control}: {self.difference}, one seed, so the difference may be chance"
        shown = {
            1: "the learned perturbations protect better",
            0: "no difference is shown",
            -1: "the learned perturbations protect worse",
        }
        return f"{self.control}: {shown[self.difference.sign]} ({self.difference})"


@dataclass(frozen=True)
class Verdict:
    """What protected images teach a network, compared with clean ones.

    Attributes:
        clean: accuracy after training on clean images.
        protected: accuracy after training on protected images.
        chance: accuracy of guessing.
        difference: `clean` minus `protected`.
    """

    clean: float
    protected: float
    chance: float
    difference: Difference

    @property
    def kept(self) -> float:
        """Share of what clean images teach beyond guessing that protected images teach too."""
        return max(self.protected - self.chance, 0) / (self.clean - self.chance)

    @property
    def shows_nothing(self) -> bool:
        """Whether clean images teach too little for anything to be taken away."""
        return (self.clean - self.chance) * self.difference.test_images < LEAST_IMAGES

    def __str__(self) -> str:
        """Say in one line whether the images are protected, and what to do if they are not."""
        if self.shows_nothing:
            return (
                "nothing is shown: clean images teach this network nothing either; use more images "
                "or epochs (target.fit.epochs)"
            )
        single = self.difference.gain.count == 1
        if self.difference.sign < 1 and not (single and self.difference.is_resolved):
            return f"no protection is shown ({self.difference}); {ADVICE}"
        kept = (
            f"{percent(self.kept, 0)} % of what clean images teach beyond guessing is still learnt"
        )
        if self.kept <= _LITTLE:
            return f"protection works: {kept}"
        degree = "partial" if self.kept <= _MOST else "little"
        return f"{degree} protection: {kept}; {ADVICE}"
