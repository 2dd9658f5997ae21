"""The metrics of a run: one JSON line for each optimizer step."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bigbatch_ue.files.atomic import atomic_file
from bigbatch_ue.files.formats import parse_json
from bigbatch_ue.files.paths import require_file
from bigbatch_ue.runs.noise_scale import smooth_noise_scale
from bigbatch_ue.runtime.errors import UserError

SPACES = ("delta", "parameters")
"""The spaces in which the noise of the gradient may be measured."""


class Moments(NamedTuple):
    """Estimates of tr(Sigma) and |G|^2, one of each generator; NaN where there is none."""

    trace: list[float]
    signal: list[float]


class Steps(NamedTuple):
    """The steps of a run: T of them, with p generators.

    Attributes:
        number: int64 [T], of each optimizer step, from 0.
        losses: float64 [T, p]; NaN in a skipped step.
        lr: float64 [T], learning rate.
        noise: by space, float64 [T, p]: smoothed noise scale in images, NaN where there is none.
    """

    number: NDArray[np.int64]
    losses: NDArray[np.float64]
    lr: NDArray[np.float64]
    noise: dict[str, NDArray[np.float64]]


def drop_steps_from(path: Path, step: int) -> None:
    """Remove the lines of `step` and later steps, which a resumed run takes again."""
    kept = [line for line, content in _lines(path) if content["step"] < step]
    with atomic_file(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in kept))


def count_steps(path: Path) -> int:
    """Count the steps that the file tells of, the last one by its number; 0 without a file."""
    return max((content["step"] + 1 for _, content in _lines(path)), default=0)


def read_moments(path: Path, space: str, generators: int) -> NDArray[np.float64]:
    """Read the estimates of the gradient noise in one space.

    Args:
        path: of the metrics.
        space: `delta` or `parameters`.
        generators: number of generators p that the run trains.

    Returns:
        [2, T, p], tr(Sigma) and |G|^2 of the T steps; NaN where a step has no estimate.

    Raises:
        UserError: the estimates of a line cannot be read.
    """
    missing = {name: [None] * generators for name in Moments._fields}
    try:
        steps = [line.get("noise", {}).get(space, missing) for _, line in _lines(path)]
        moments = [[step[name] for step in steps] for name in Moments._fields]
        shape = (len(Moments._fields), len(steps), generators)
        return np.array(moments, dtype=np.float64).reshape(shape)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: cannot read the gradient noise ({error})") from None


def read_steps(path: Path, generators: int) -> Steps:
    """Read what happened at each step.

    Args:
        path: of the metrics.
        generators: number of generators p that the run trains.

    Raises:
        UserError: the file is missing or has no steps, or a line cannot be read.
    """
    lines = [line for _, line in _lines(require_file(path))]
    if not lines:
        raise UserError(f"{path}: has no steps; train again")
    try:
        number = np.array([line["step"] for line in lines], dtype=np.int64)
        losses = [line.get("loss", [None] * generators) for line in lines]
        lr = np.array([line["lr"] for line in lines], dtype=np.float64)
        shaped = np.array(losses, dtype=np.float64).reshape(len(lines), generators)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: cannot read the steps ({error}); train again") from None
    moments = {space: read_moments(path, space, generators) for space in SPACES}
    noise = {
        space: smooth_noise_scale(*estimates)
        for space, estimates in moments.items()
        if np.isfinite(estimates).any()
    }
    return Steps(number, shaped, lr, noise)


def _lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Read the lines before the first incomplete one, each as text and as its content."""
    if not path.exists():
        return []
    lines = []
    for line in require_file(path).read_bytes().splitlines():
        try:
            content = parse_json(line)
            text = line.decode()
        except ValueError:
            break
        if not isinstance(content, dict) or not isinstance(content.get("step"), int):
            break
        lines.append((text, content))
    return lines
