"""Numbers, counts, intervals and file names, as all messages and reports write them."""

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence

DASH = "–"
"""Stands for an unknown number."""

_LONGEST = 200


def percent(value: float | None, digits: int = 1) -> str:
    """Return a fraction in per cent, without the sign; a dash if it is unknown."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{100 * value:.{digits}f}"


def interval(
    low: float | None,
    high: float | None,
    digits: int = 1,
    *,
    between: str = " to ",
    unknown: str = DASH,
) -> str:
    """Return an interval of fractions in per cent; `unknown` if an end is unknown."""
    ends = [percent(end, digits) for end in (low, high)]
    return unknown if DASH in ends else between.join(ends)


def number(value: float) -> str:
    """Return a positive number to three digits or to the unit; a dash if it is unknown."""
    if not math.isfinite(value):
        return DASH
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def counted(count: int, noun: str) -> str:
    """Return a number of things: `1 image`, `1,437 images`, `2 micro-batches`."""
    return counted_span([count], noun)


def counted_span(counts: Sequence[int], noun: str) -> str:
    """Return a range of numbers of things: `25 to 28 images`; `1 image` if all are 1."""
    ending = "" if max(counts) == 1 else "es" if noun.endswith(("s", "ch")) else "s"
    return f"{span(counts)} {noun}{ending}"


def span(numbers: Iterable[int]) -> str:
    """Return the range of some numbers, such as `25 to 28`; one number if they are equal."""
    numbers = list(numbers)
    least, most = f"{min(numbers):,}", f"{max(numbers):,}"
    return least if least == most else f"{least} to {most}"


def p_value(p: float) -> str:
    """Return a p-value such as `p = 0.041`."""
    if math.isnan(p):
        return "p unknown"
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def slug(text: str) -> str:
    """Return `text` in lower case, with a hyphen for characters that file names should not have."""
    return re.sub(r"[^a-z0-9_.]+", "-", text.lower()).strip("-.")


def slugs(titles: Iterable[str]) -> Iterator[str]:
    """Yield a different file name for each title."""
    return numbered(slug(title)[-_LONGEST:] or "data" for title in titles)


def numbered(names: Iterable[str]) -> Iterator[str]:
    """Yield each name; equal names are numbered from the second on."""
    seen: set[str] = set()
    for name in names:
        tries = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
        free = next(one for one in tries if one not in seen)
        seen.add(free)
        yield free
