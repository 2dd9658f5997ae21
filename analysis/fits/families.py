"""Families of curves in x = log2 B, and their fast fit to many data sets at once.

Every family is linear given at most one bend: f(x) = basis(x, bend) @ linear parameters. Least
squares over a fine grid of the bend is therefore one projection per grid point, computed once for
all data sets (variable projection: Golub and Pereyra, 1973).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import lmfit
import numpy as np
from numpy.typing import NDArray

from analysis.table.table import Floats

Integers = NDArray[np.intp]

_KNOTS = 129
_MIN_MEAN_SQUARE = 1e-6
"""Smallest mean square residual in the criterion, which would be -inf for a perfect fit."""


class Family(ABC):
    """A family of curves.

    Attributes:
        name: name in reports.
        linear: names of the p linear parameters.
        bend: name of the nonlinear parameter, if there is one.
        refined: whether the bend is continuous, so that its fit can be refined.
    """

    name: str
    linear: tuple[str, ...]
    bend: str | None = None
    refined = False

    @property
    def count(self) -> int:
        """Number of parameters, the bend included."""
        return len(self.linear) + (self.bend is not None)

    def bends(self, x: Floats) -> Floats:
        """Return the grid of the bend, float64 [g], for sizes `x` [k], ascending."""
        return np.zeros(1)

    @abstractmethod
    def basis(self, x: Floats, bend: Floats) -> Floats:
        """Return the basis, float64 [..., p], at `x` and `bend`, which broadcast to [...]."""

    @abstractmethod
    def lowest(self, linear: Floats, bend: Floats, x: Floats) -> Floats:
        """Return the x, float64 [d], where curves [d, p] with bends [d] are lowest.

        It lies between the sizes `x` [k]. If a curve is as low from there to an edge, it is the
        inner end of that stretch.
        """

    def curve(self, x: Floats, linear: Floats, bend: Floats) -> Floats:
        """Return the values [d, m] at `x` [m] or [d, m] of curves [d, p] with bends [d]."""
        values: Floats = np.einsum("dmp,dp->dm", self.basis(x, bend[:, None]), linear)
        return values

    def _lowest_of(self, candidates: Floats, linear: Floats, bend: Floats) -> Floats:
        """Return which of the x in `candidates` [d, m] has the lowest value, float64 [d]."""
        choice = self.curve(candidates, linear, bend).argmin(1)
        chosen: Floats = np.take_along_axis(candidates, choice[:, None], 1)[:, 0]
        return chosen


class Flat(Family):
    """f(x) = level."""

    name = "flat"
    linear = ("level",)

    def basis(self, x: Floats, bend: Floats) -> Floats:
        """Return ones."""
        return np.ones((*np.broadcast_shapes(x.shape, bend.shape), 1))

    def lowest(self, linear: Floats, bend: Floats, x: Floats) -> Floats:
        """Return the lower edge; the curve is equally low everywhere."""
        return np.full(len(linear), x[0])


class Monotone(Family):
    """f(x) = intercept + slope x; lowest at an edge."""

    name = "monotone"
    linear = ("intercept", "slope")

    def basis(self, x: Floats, bend: Floats) -> Floats:
        """Return the powers 0 and 1 of x."""
        return _powers(x, bend, 2)

    def lowest(self, linear: Floats, bend: Floats, x: Floats) -> Floats:
        """Return the edge to which the curve falls."""
        lowest: Floats = np.where(linear[:, 1] < 0, x[-1], x[0])
        return lowest


class Step(Family):
    """f(x) = level + change [x >= threshold]; the threshold is any size but the first.

    A step between two sizes could lie anywhere between them, so the threshold is the first size
    beyond it. The lower level reaches an edge. The optimum is the size where that level starts:
    the threshold if the step goes down, the size before it if the step goes up.
    """

    name = "step"
    linear = ("level", "change")
    bend = "threshold"

    def bends(self, x: Floats) -> Floats:
        """Return all sizes but the first."""
        return x[1:]

    def basis(self, x: Floats, bend: Floats) -> Floats:
        """Return one, and whether x has reached the threshold."""
        beyond = (x >= bend).astype(np.float64)
        return np.stack([np.ones_like(beyond), beyond], -1)

    def lowest(self, linear: Floats, bend: Floats, x: Floats) -> Floats:
        """Return the size on the lower level that is next to the step."""
        place = np.searchsorted(x, bend)
        lowest: Floats = x[np.where(linear[:, 1] < 0, place, place - 1)]
        return lowest


class Quadratic(Family):
    """f(x) = intercept + slope x + curvature x^2; lowest at its vertex, or at an edge."""

    name = "quadratic"
    linear = ("intercept", "slope", "curvature")

    def basis(self, x: Floats, bend: Floats) -> Floats:
        """Return the powers 0 to 2 of x."""
        return _powers(x, bend, 3)

    def lowest(self, linear: Floats, bend: Floats, x: Floats) -> Floats:
        """Return the vertex if it is a minimum inside the range, else the lower edge."""
        slope, curvature = linear[:, 1], linear[:, 2]
        vertex = (-slope / (2 * np.where(curvature > 0, curvature, 1))).clip(x[0], x[-1])
        edges = np.broadcast_to(x[[0, -1]], (len(linear), 2))
        return self._lowest_of(np.column_stack([vertex, edges]), linear, bend)


class Hinge(Family):
    """f(x) = level + left (x - knot)_- + right (x - knot)_+, two slopes joined at a knot.

    (u)_- = min(u, 0) and (u)_+ = max(u, 0). The knot lies between the second and the last but one
    size, because a single size cannot determine both a slope and where it begins.
    """

    name = "hinge"
    linear = ("level", "left", "right")
    bend = "knot"
    refined = True

    def bends(self, x: Floats) -> Floats:
        """Return an even grid from the second to the last but one size."""
        return np.linspace(x[1], x[-2], _KNOTS)

    def basis(self, x: Floats, bend: Floats) -> Floats:
        """Return one, and the distances below and above the knot."""
        distance = x - bend
        return np.stack([np.ones_like(distance), distance.clip(max=0), distance.clip(min=0)], -1)

    def lowest(self, linear: Floats, bend: Floats, x: Floats) -> Floats:
        """Return the knot or an edge, whichever is lower."""
        edges = np.broadcast_to(x[[0, -1]], (len(linear), 2))
        return self._lowest_of(np.column_stack([bend, edges]), linear, bend)


FAMILIES: tuple[Family, ...] = (Flat(), Monotone(), Step(), Quadratic(), Hinge())


def _powers(x: Floats, bend: Floats, count: int) -> Floats:
    x = np.broadcast_to(x, np.broadcast_shapes(x.shape, bend.shape))
    return np.stack([x**power for power in range(count)], -1)


@dataclass(frozen=True)
class Fits:
    """One family fitted to d data sets.

    Attributes:
        rss: float64 [d], weighted residual sum of squares.
        linear: float64 [d, p], linear parameters.
        bend: float64 [d].
    """

    rss: Floats
    linear: Floats
    bend: Floats


class Grid:
    """Least squares of one family over the grid of its bend.

    Args:
        family: family of curves.
        x: float64 [k], sizes as log2 B, ascending.
        whiten: float64 [k, k], W where W' W is the inverse covariance of the values at the sizes.
    """

    def __init__(self, family: Family, x: Floats, whiten: Floats) -> None:
        self.family = family
        self.x = x
        self.bends = family.bends(x)
        self._whiten = whiten
        directions, triangle = np.linalg.qr(whiten @ family.basis(x, self.bends[:, None]))
        self._solve = np.linalg.solve(triangle, directions.mT)
        self._directions = directions.transpose(1, 0, 2).reshape(len(x), -1)

    def fit(self, values: Floats) -> Fits:
        """Return the best fit to each of d data sets, float64 [d, k]."""
        white = values @ self._whiten.T
        parts = (white @ self._directions).reshape(len(values), len(self.bends), -1)
        best = np.einsum("dgp,dgp->dg", parts, parts).argmax(1)
        linear = np.einsum("dpk,dk->dp", self._solve[best], white)
        bend = self.bends[best]
        # As a difference of sums of squares, the residual of a near perfect fit would be rounding.
        residual = white - self.family.curve(self.x, linear, bend) @ self._whiten.T
        return Fits(np.einsum("dk,dk->d", residual, residual), linear, bend)


class Comparison:
    """All families fitted to d data sets.

    Args:
        grids: a grid for each family; the first family is flat.
        means: float64 [d, k], means at the sizes.
        within: float64 [d], weighted sums of squares of the runs around the means.
        freedom: number of runs, less that of the parameters estimated apart from the curve.

    Attributes:
        aicc: float64 [families, d]; the first family is flat.
        gain: float64 [d], AICc of flat less that of the best other family.
    """

    def __init__(self, grids: list[Grid], means: Floats, within: Floats, freedom: int) -> None:
        self.x = grids[0].x
        self.families = [grid.family for grid in grids]
        self.fits = [grid.fit(means) for grid in grids]
        self.aicc = np.stack(
            [
                _aicc(fits.rss + within, family.count + 1, freedom)
                for family, fits in zip(self.families, self.fits, strict=True)
            ]
        )
        self.gain = self.aicc[0] - self.aicc[1:].min(0)

    def chosen(self, flat: bool) -> Integers:
        """Return the index [d] of the best family for each data set; `flat` lets it be flat."""
        first = 0 if flat else 1
        chosen: Integers = first + self.aicc[first:].argmin(0)
        return chosen

    def curves(self, chosen: Integers, at: Floats) -> Floats:
        """Return the values, float64 [d, m], of the `chosen` families at `at`, x [m] or [d, m]."""
        values = np.empty((len(chosen), at.shape[-1]))
        for index, (family, fits) in enumerate(zip(self.families, self.fits, strict=True)):
            own = chosen == index
            x = at if at.ndim == 1 else at[own]
            values[own] = family.curve(x, fits.linear[own], fits.bend[own])
        return values

    def lowest(self, chosen: Integers) -> Floats:
        """Return the x, float64 [d], where the `chosen` families are lowest."""
        lowest = np.empty(len(chosen))
        for index, (family, fits) in enumerate(zip(self.families, self.fits, strict=True)):
            own = chosen == index
            lowest[own] = family.lowest(fits.linear[own], fits.bend[own], self.x)
        return lowest


def _aicc(rss: Floats, parameters: int, freedom: int) -> Floats:
    """Return n log(RSS / n) + 2 K + 2 K (K + 1) / (n - K - 1) (Hurvich and Tsai, 1989)."""
    spare = freedom - parameters - 1
    if spare <= 0:
        return np.full_like(rss, np.inf)
    penalty = 2 * parameters + 2 * parameters * (parameters + 1) / spare
    aicc: Floats = freedom * np.log(np.maximum(rss / freedom, _MIN_MEAN_SQUARE)) + penalty
    return aicc


def refine(
    family: Family, x: Floats, values: Floats, whiten: Floats, start: Fits
) -> tuple[dict[str, float], dict[str, float]]:
    """Refine the best fit of the grid to `values`, float64 [k], with lmfit.

    Returns:
        Parameters and standard errors by name. Errors follow from the covariance of the values
        (lmfit, `scale_covar=False`). They are NaN where a parameter is not continuous or the fit is
        singular.
    """
    parameters = lmfit.Parameters()
    for name, value in zip(family.linear, start.linear[0], strict=True):
        parameters.add(name, value=float(value))
    if family.bend is not None:
        grid = family.bends(x)
        parameters.add(family.bend, value=float(start.bend[0]), vary=family.refined)
        if family.refined:
            parameters[family.bend].set(min=float(grid[0]), max=float(grid[-1]))

    def residual(trial: lmfit.Parameters) -> Floats:
        linear = np.array([trial[name].value for name in family.linear])
        bend = np.array(trial[family.bend].value if family.bend else 0.0)
        white: Floats = whiten @ (values - family.basis(x, bend) @ linear)
        return white

    fitted = lmfit.minimize(residual, parameters, scale_covar=False).params
    errors = {
        name: float(one.stderr) if one.vary and one.stderr is not None else np.nan
        for name, one in fitted.items()
    }
    return {name: float(one.value) for name, one in fitted.items()}, errors
