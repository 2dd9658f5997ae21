"""The analysis against curves whose truth is known: what it promises, and what it does.

    python -m tests.analysis.calibration analysis/examples/calibration

Each case is simulated `--replications` times, from a seed of its own. Finished cases are kept in
`cases.csv`, so that the command continues where it was stopped. `README.md` has the tables.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from rich.progress import track
from threadpoolctl import threadpool_limits

from analysis.defaults import DRAWS, MARGIN
from analysis.fits.confound import separate
from analysis.fits.contrasts import SmoothTest
from analysis.fits.instability import (
    InstabilityFit,
    deviations_across_seeds,
    deviations_within_runs,
    fit_instability,
)
from analysis.fits.mean import MeanFit, fit_mean
from analysis.fits.runs import TwoWay, successful_runs
from analysis.fits.seed_noise import draw_noise
from analysis.fits.together import fit_together
from bigbatch_ue.files.atomic import atomic_file
from tests.analysis.simulator import NOISES, SHAPES, Design, Floats, Shape, first_gap, last_gap
from tests.helpers.findings import a_curve

RESOLUTION = 1 / 1000
LEVEL = 0.35
ALIKE = "Nothing unstable, data sets alike"
Once = Callable[[np.random.Generator], dict[str, float]]
Make = Callable[[Design, np.random.Generator], Floats]


@dataclass(frozen=True)
class Case:
    """A case of the calibration.

    Attributes:
        part: which promise is tested.
        name: what is simulated.
        once: simulates and fits once; a number for each measure, NaN where nothing is claimed.
    """

    part: str
    name: str
    once: Once


# -- what is measured ----------------------------------------------------------------------------


def effect(
    design: Design, shape: Shape, depth: float, random: np.random.Generator
) -> dict[str, float]:
    """Whether an effect of B is found."""
    fit = TwoWay(successful_runs(design.batches, design.accuracy(shape, depth, random)))
    test = SmoothTest(fit.runs.x, draw_noise(fit, DRAWS, random).errors)
    return {"effect found": float(test.p(fit.means[None])[0] < 0.05)}


def best_batch(
    design: Design, shape: Shape, depth: float, random: np.random.Generator
) -> dict[str, float]:
    """Whether the interval of the best B holds it, the accuracy there its own, and `as_good`."""
    fit = fit_mean(design.batches, design.accuracy(shape, depth, random), seed=_seed(random))
    z = np.linspace(0, 1, 2001)
    best = z[shape(z) <= shape(z).min() + 0.005]
    low, high = (design.z(end) for end in fit.interval)
    truth = LEVEL + depth * float(shape(np.array(design.z(fit.optimum))))
    held = np.any((best >= low - 1e-9) & (best <= high + 1e-9))
    return {
        "effect found": float(fit.verdict == "effect"),
        "best B in its interval": float(held) if fit.verdict == "effect" else np.nan,
        "accuracy in its interval": float(fit.best_interval[0] <= truth <= fit.best_interval[1]),
        "a size worse than the margin is as good": _wrongly_as_good(fit, design, shape, depth),
    }


def _wrongly_as_good(fit: MeanFit, design: Design, shape: Shape, depth: float) -> float:
    truth = depth * shape(np.linspace(0, 1, design.sizes))
    listed = truth[np.isin(design.batches, fit.as_good)]
    return float(np.any(listed > truth.min() + MARGIN + 1e-9))


def equivalent(
    design: Design, shape: Shape, depth: float, random: np.random.Generator
) -> dict[str, float]:
    """Whether the sizes are called equivalent."""
    fit = fit_mean(design.batches, design.accuracy(shape, depth, random), seed=_seed(random))
    return {"called equivalent": float(fit.verdict == "equivalent")}


def regret(
    design: Design, shape: Shape, depth: float, random: np.random.Generator
) -> dict[str, float]:
    """Points lost by the advice, and by the size of the lowest mean, against the best size."""
    accuracy = design.accuracy(shape, depth, random)
    fit = fit_mean(design.batches, accuracy, seed=_seed(random))
    truth = depth * shape(np.linspace(0, 1, design.sizes))
    lost = truth - truth.min()
    advised = int(np.flatnonzero(design.batches == fit.lowest)[0])
    if fit.verdict == "equivalent":
        advised = int(lost.argmax())  # whichever is fastest may be the worst
    return {"points lost": lost[advised], "by the lowest mean": lost[accuracy.mean(1).argmin()]}


def spread(
    make: Callable[[np.random.Generator], Floats], random: np.random.Generator
) -> dict[str, float]:
    """Whether runs are found to be unstable across seeds."""
    values = make(random).clip(0, 1)
    batches = 2 ** np.arange(4, 4 + len(values))
    deviations = deviations_across_seeds(batches, values, resolution=RESOLUTION)
    return _claims(fit_instability("seeds", deviations, draws=100, seed=_seed(random)))


def together(
    designs: Sequence[Design],
    make: Make,
    random: np.random.Generator,
) -> dict[str, float]:
    """Whether data sets together are found to be unstable, or to differ in how B changes them.

    The last of them begins at a B four times as large as the others; each is placed in its range.
    """
    curves = [
        a_curve(
            design.sizes,
            design.seeds,
            dataset=f"{100 * design.std:g} points",
            batches=design.batches * (4 if design is designs[-1] else 1),
            accuracy=make(design, random).clip(0, 1),
            test_images=round(1 / RESOLUTION),
            tail_epochs=0,
        )
        for design in designs
    ]
    found = fit_together(curves, draws=100)
    assert found.seeds
    return {**_claims(found.seeds), "data sets differ": float(found.differ_p < 0.05)}


def oscillation(design: Design, drift: float, random: np.random.Generator) -> dict[str, float]:
    """Whether runs that still improve, at the small B most, are found to oscillate there."""
    epochs = np.arange(8)
    improving = drift * np.linspace(1, 0, design.sizes)[:, None, None] * epochs
    noise = random.normal(0, 0.01, (design.sizes, design.seeds, len(epochs)))
    accuracies = 0.5 + improving + noise
    line = np.vander(epochs, 2)
    left = accuracies @ (np.eye(len(epochs)) - line @ np.linalg.pinv(line))
    deviation = np.sqrt((left**2).sum(-1) / (len(epochs) - 2))
    deviations = deviations_within_runs(
        design.batches,
        deviation,
        accuracies[..., -1],
        resolution=RESOLUTION,
        tail_epochs=len(epochs),
    )
    return _claims(fit_instability("oscillation", deviations, draws=100, seed=_seed(random)))


def _claims(fit: InstabilityFit) -> dict[str, float]:
    small = fit.trend_p < 0.05 and not fit.rises
    return {
        "unstable at both ends": float(fit.both_ends_p < 0.05),
        "unstable at small B": float(small),
        "unstable at large B": float(fit.trend_p < 0.05 and fit.rises),
    }


def steps_or_batch(design: Design, random: np.random.Generator) -> dict[str, float]:
    """Whether steps or batch size is found to matter where neither does."""
    curves = [
        replace(
            a_curve(design.sizes, design.seeds),
            budget=budget,
            batches=design.batches,
            steps=np.full(design.sizes, 60),
            accuracy=design.accuracy(SHAPES["flat"], 0, random),
        )
        for budget in ("epochs", "steps")
    ]
    found = separate(*curves)
    return {
        "steps matter": float(found.steps_p < 0.05),
        "B matters": float(found.batch_p < 0.05),
        "changes differ": float(found.difference_p < 0.05),
    }


def _seed(random: np.random.Generator) -> int:
    return int(random.integers(2**32))


# -- cases ---------------------------------------------------------------------------------------


def cases() -> Iterator[Case]:
    """Yield every case."""
    flat = SHAPES["flat"]
    for noise in NOISES:
        for sizes, seeds in ((7, 5), (9, 5), (8, 10), (6, 3)):
            design = Design(sizes, seeds, noise=NOISES[noise])
            yield Case("No effect", _name(noise, design), partial(effect, design, flat, 0.0))
    for shape in ("slope", "U", "one narrow valley", "two valleys"):
        for sizes in (6, 7, 8, 9):
            design = Design(sizes, 5)
            once: Once = partial(effect, design, SHAPES[shape], 0.15)
            yield Case("An effect of 15 points, noise 8", _name(shape, design), once)
    yield from _cases_of_best_batch()
    precise = Design(7, 5, std=0.02)
    for shape, depth in (("step", MARGIN), ("U", MARGIN), ("flat", 0.0)):
        name = f"{shape} of {100 * depth:.0f} points"
        once = partial(equivalent, precise, SHAPES[shape], depth)
        yield Case("Equivalence, noise 2", _name(name, precise), once)
    for shape in ("U", "slope", "V at 0.8", "skewed valley", "two valleys", "step"):
        for depth in (0.02, 0.04, 0.06):
            design = Design(7, 5)
            name = f"{shape} of {100 * depth:.0f} points"
            once = partial(regret, design, SHAPES[shape], depth)
            yield Case("Weak effects, noise 8", _name(name, design), once)
    yield from _cases_of_spread()
    yield from _cases_of_data_sets()
    for noise in ("normal", "largest B x 4", "slopes x 1.5", "slopes x 3"):
        design = Design(8, 5, noise=NOISES[noise])
        once = partial(steps_or_batch, design)
        yield Case("Neither steps nor batch", _name(noise, design), once)


def _cases_of_best_batch() -> Iterator[Case]:
    designs = [Design(6, 5), Design(8, 5), Design(9, 10, std=0.03)]
    for design in designs:
        named = {
            **{name: SHAPES[name] for name in SHAPES if name != "flat"},
            "V in the first gap": first_gap(design.sizes),
            "V in the last gap": last_gap(design.sizes),
        }
        depth = 0.3 if design.seeds == 5 else 0.2
        for name, shape in named.items():
            once = partial(best_batch, design, shape, depth)
            yield Case("The best B", _name(name, design), once)
    for sizes in (3, 4, 5):
        for name in ("V at 0.8", "skewed valley"):
            design = Design(sizes, 5, std=0.05)
            once = partial(best_batch, design, SHAPES[name], 0.4)
            yield Case("The best B", _name(name, design), once)
    for noise in ("one run in 20 fails", "slopes x 1.5", "largest B x 4", "a fifth missing"):
        design = Design(8, 5, std=0.05, noise=NOISES[noise])
        once = partial(best_batch, design, SHAPES["U"], 0.3)
        yield Case("The best B", _name(f"U, {noise}", design), once)


def _cases_of_spread() -> Iterator[Case]:
    null = "Nothing unstable"
    for noise in ("normal", "Student's t, 3 df", "one run in 20 fails", "7.5 % of runs fail"):
        for seeds in (5, 10):
            design = Design(8, seeds, noise=NOISES[noise])
            make = partial(design.accuracy, SHAPES["flat"], 0)
            yield Case(null, _name(noise, design), partial(spread, make))
    for shape in ("U", "slope"):
        design = Design(8, 5)
        make = partial(design.bounded, SHAPES[shape], 0.11, 0.5)
        yield Case(null, _name(f"{shape} near chance", design), partial(spread, make))
    for drift in (0.0, 0.01, 0.03):
        design = Design(8, 5)
        name = f"runs that drift by {100 * drift:.0f} points an epoch"
        yield Case(null, _name(name, design), partial(oscillation, design, drift))
    for seeds in (5, 10, 20):
        for name, factor in (
            ("grows fourfold", 4.0 ** np.linspace(0, 1, 8)),
            ("fourfold at both ends", 1 + 3 * SHAPES["U"](np.linspace(0, 1, 8))),
        ):
            make = partial(_spreading, factor, seeds)
            part = "A spread that changes"
            yield Case(part, _name(name, Design(8, seeds)), partial(spread, make))


def _cases_of_data_sets() -> Iterator[Case]:
    """Yield four data sets of five seeds, whose noise is 2, 4, 8 and 16 points."""

    def case(part: str, name: str, make: Make, noise: str = "normal") -> Case:
        designs = [Design(8, 5, std=std, noise=NOISES[noise]) for std in (0.02, 0.04, 0.08, 0.16)]
        once = partial(together, designs, make)
        return Case(part, _name(f"{name}, 4 data sets", designs[0]), once)

    for noise in ("normal", "Student's t, 3 df", "one run in 20 fails"):
        for shape, depth in (("flat", 0.0), ("U", 0.2)):
            make = partial(_shaped, SHAPES[shape], depth)
            yield case(ALIKE, f"{noise}, {shape}", make, noise)
    for factor in (2.0, 2.5, 3.0):
        make = partial(_growing, factor)
        yield case("A spread that changes in all", f"grows {factor:g} times", make)
    yield case("Data sets that differ", "slopes of 5, 10, 20 and 40 points", _sloping)


def _shaped(shape: Shape, depth: float, design: Design, random: np.random.Generator) -> Floats:
    return design.accuracy(shape, depth, random)


def _growing(factor: float, design: Design, random: np.random.Generator) -> Floats:
    growth = factor ** np.linspace(-0.5, 0.5, design.sizes)
    values: Floats = 0.45 + design.std * growth[:, None] * random.normal(
        size=(design.sizes, design.seeds)
    )
    return values


def _sloping(design: Design, random: np.random.Generator) -> Floats:
    return design.accuracy(SHAPES["slope"], 2.5 * design.std, random)


def _spreading(factor: Floats, seeds: int, random: np.random.Generator) -> Floats:
    values: Floats = 0.4 + 0.03 * factor[:, None] * random.normal(size=(len(factor), seeds))
    return values


def _name(what: str, design: Design) -> str:
    return f"{what}: {design.sizes} sizes, {design.seeds} seeds"


# -- running and writing -------------------------------------------------------------------------


def run_case(place: int, replications: int) -> pd.DataFrame:
    """Simulate the case at a place among all; return a row for each of its measures."""
    case = list(cases())[place]
    random = np.random.default_rng(zlib.crc32(f"{case.part}, {case.name}".encode()))
    with threadpool_limits(1):
        found = pd.DataFrame([case.once(random) for _ in range(replications)])
    return pd.DataFrame(
        {
            "part": case.part,
            "case": case.name,
            "measure": found.columns,
            "value": found.mean().round(4).to_list(),
            "count": found.count().to_list(),
        }
    )


def main(
    out: Annotated[Path, typer.Argument(help="output folder")],
    replications: Annotated[int, typer.Option(min=1, help="simulations of each case")] = 200,
    workers: Annotated[int, typer.Option(min=1, help="processes")] = 2,
) -> None:
    """Simulate every case that is not in `cases.csv` yet, and write the tables."""
    file = out / "cases.csv"
    done = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=["part", "case"])
    known = set(zip(done["part"], done["case"], strict=True))
    every = list(cases())
    missing = [i for i, case in enumerate(every) if (case.part, case.name) not in known]
    with ProcessPoolExecutor(workers) as pool:
        running = [pool.submit(run_case, place, replications) for place in missing]
        for finished in track(as_completed(running), "simulating", total=len(running)):
            done = pd.concat([done, finished.result()], ignore_index=True)
            with atomic_file(file) as temporary:
                done.to_csv(temporary, index=False)
    order = {(case.part, case.name): place for place, case in enumerate(every)}
    keys = list(zip(done["part"], done["case"], strict=True))
    done = done.assign(place=[order[key] for key in keys]).sort_values("place", kind="stable")
    with atomic_file(out / "README.md") as temporary:
        temporary.write_text(page(done, replications))
    print(out / "README.md")


def page(found: pd.DataFrame, replications: int) -> str:
    """Return the tables in Markdown: a section for each part, a row for each case."""
    lines = [INTRODUCTION.format(replications=replications), "## Goals\n", *_goals(found)]
    for part, rows in found.groupby("part", sort=False):
        table = rows.pivot_table("value", "case", "measure", sort=False)
        lines += [f"\n## {part}\n", "| case | " + " | ".join(table.columns) + " |"]
        lines.append("|" + " --- |" * (len(table.columns) + 1))
        for case, values in table.iterrows():
            cells = ["-" if np.isnan(value) else f"{100 * value:.1f}" for value in values]
            lines.append(f"| {case} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _goals(found: pd.DataFrame) -> Iterator[str]:
    """Yield a line for each goal, and what was measured."""

    def of(part: str, measure: str = "") -> pd.Series:
        rows = found[(found["part"] == part) & found["measure"].str.contains(measure)]
        return (100 * rows.set_index("case")["value"]).round(1)

    held = of("The best B", "best B")
    counted = found.set_index("case")["count"]
    yield (
        f"* Intervals of the best B hold it in at least 90 % of every case, 93 % on average: the "
        f"lowest is {held.min():.1f} ({held.idxmin()}), the average {held.mean():.1f}."
    )
    null = of("No effect")
    yield (
        f"* An effect is found in at most 7 % where there is none: {(null <= 7).sum()} of "
        f"{len(null)} cases, {null.mean():.1f} on average; above it "
        f"{', '.join(f'{case} {value:.1f}' for case, value in null[null > 7].items()) or 'none'}."
    )
    stable = of("Nothing unstable").groupby(level=0, sort=False).sum()
    yield (
        f"* Runs are called unstable in at most 7 % where they are not: the highest is "
        f"{stable.max():.1f} ({stable.idxmax()}), the average {stable.mean():.1f}."
    )
    alike = of(ALIKE, "unstable").groupby(level=0, sort=False).sum()
    growing = of("A spread that changes in all", "large B")
    yield (
        f"* Four data sets together are called unstable in at most 7 % where they are not: the "
        f"highest is {alike.max():.1f}; and said to differ in at most 8 % where they do not: the "
        f"highest is {of(ALIKE, 'differ').max():.1f}."
    )
    yield (
        "* A spread that grows in all four data sets is found: "
        + ", ".join(
            f"{value:.0f} ({str(case).partition(',')[0]})" for case, value in growing.items()
        )
        + "."
    )
    lost, lowest = of("Weak effects, noise 8", "points lost"), of("Weak effects, noise 8", "by the")
    yield (
        f"* At most 1.2 points are lost under weak effects: {lost.mean():.2f} on average; taking "
        f"the lowest mean loses {lowest.mean():.2f}."
    )
    power = of("An effect of 15 points, noise 8")
    for shape, goal in (("slope", 80), ("U", 80), ("one narrow", 60), ("two valleys", 60)):
        own = ", ".join(
            f"{value:.0f} ({str(case).partition(': ')[2].partition(',')[0]})"
            for case, value in power.items()
            if str(case).startswith(shape)
        )
        yield f"* Power of {goal} % for {shape}{' valley' * (shape == 'one narrow')}: {own}."
    assert (counted > 0).all()


INTRODUCTION = """# Calibration: what the analysis promises, and what it does

`run.sh` simulates sweeps whose truth is known (`tests/analysis/simulator.py`), and analyses them
{replications} times a case; `cases.csv` has every number. All figures are per cent of the
simulations; lost points are points. Of {replications} simulations, a true 5 % is measured as 2 to
8 %, and a true 95 % as 92 to 98 %. The tests are not adjusted for their number here. Runs have a
noise of 8 points apart from the level of their seed, by which seeds differ by 5 points, unless
another is named. Each size is twice the one before.
"""


if __name__ == "__main__":
    typer.run(main)
