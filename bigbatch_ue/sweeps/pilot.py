"""A pilot: the strength at which the protection of each data set of a sweep is midway.

Where protected images leave a network at chance whatever B is, or as good as clean ones, a curve
can show nothing. So a few runs at one B come first. For each data set, `generator.eps` is chosen
from a ladder by bisection: accuracy falls as the strength rises. The rung whose mean accuracy is
nearest to the middle between that of clean images and guessing is taken, of equals the weakest.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bigbatch_ue.config.names import ArmName
from bigbatch_ue.evaluation.arms import load_arms
from bigbatch_ue.reporting.words import counted
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.sweeps.cells import Cell, sweep_cells, with_different_names
from bigbatch_ue.sweeps.folder import PILOT
from bigbatch_ue.sweeps.spec import BatchGrid, Seeds, SweepDataset, SweepSpec
from bigbatch_ue.sweeps.strength import ChosenStrength, Trial, in_255

LADDER = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
"""Strengths to choose from, times 255."""
_SEEDS = 2
"""Run seeds of the pilot: the first ones of the sweep."""
_ARMS = {
    "arms": [ArmName.CLEAN, ArmName.UC],
    "fractions": [1.0],
    "countermeasures": [],
    "labels": ["own"],
}
"""What the pilot evaluates, whatever the sweep does."""

RunCells = Callable[[Sequence[Cell]], None]


@dataclass
class _Search:
    """The bisection of the ladder for one data set.

    Attributes:
        dataset: of the sweep.
        title: name of the data set.
        batch: B of the pilot.
        trials: by rung of the ladder.
    """

    dataset: SweepDataset
    title: str
    batch: int
    trials: dict[int, Trial] = field(default_factory=dict)
    clean: float = 0.0
    chance: float = 0.0

    @property
    def midway(self) -> float:
        return (self.clean + self.chance) / 2

    @property
    def next_rung(self) -> int | None:
        """The rung to try next; None once the two nearest to midway are known."""
        too_weak = [rung for rung, trial in self.trials.items() if trial.mean > self.midway]
        too_strong = [rung for rung, trial in self.trials.items() if trial.mean <= self.midway]
        low, high = max(too_weak, default=-1), min(too_strong, default=len(LADDER))
        return (low + high) // 2 if high - low > 1 else None

    def add(self, rung: int, cells: Sequence[Cell]) -> None:
        """Add the results of the cells at a rung."""
        arms = [arm for cell in cells for arm in load_arms(cell.files.evaluation_results)]
        own = [arm.final_accuracy for arm in arms if arm.arm == ArmName.UC]
        clean = [arm.final_accuracy for arm in arms if arm.arm == ArmName.CLEAN]
        self.trials[rung] = Trial(eps=LADDER[rung] / 255, accuracies=tuple(own))
        self.clean, self.chance = sum(clean) / len(clean), 1 / len(arms[0].confusion)

    def chosen(self) -> ChosenStrength:
        """Return the strength whose accuracy is nearest to midway."""
        trials = tuple(self.trials[rung] for rung in sorted(self.trials))
        nearest = min(trials, key=lambda trial: abs(trial.mean - self.midway))
        return ChosenStrength(
            dataset=self.title,
            batch=self.batch,
            clean=self.clean,
            chance=self.chance,
            eps=nearest.eps,
            trials=trials,
        )


def midway_strengths(
    sweep: SweepSpec, run: RunCells, *, download: bool = False
) -> list[ChosenStrength]:
    """Choose the strength of each data set of a sweep; cells that have been run are not run again.

    Args:
        sweep: with `strength: midway`.
        run: runs the cells of a round, until each has an outcome.
        download: allow the data sets to be downloaded.

    Raises:
        UserError: a cell of the pilot failed.
    """
    searches = [_search(sweep, dataset, download) for dataset in with_different_names(sweep)]
    while open_searches := [each for each in searches if each.next_rung is not None]:
        rounds = []
        for search in open_searches:
            rung = search.next_rung
            assert rung is not None
            cells = sweep_cells(_at_rung(sweep, search, rung), download=download)
            rounds.append((search, rung, cells))
        all_cells = [cell for *_, cells in rounds for cell in cells]
        if not all(map(_is_finished, all_cells)):
            run(all_cells)
        for search, rung, cells in rounds:
            _require_finished(cells)
            search.add(rung, cells)
    return [search.chosen() for search in searches]


class _NotChosenError(Exception):
    """A cell of the pilot has not finished."""


def chosen_strengths(sweep: SweepSpec, *, download: bool = False) -> list[ChosenStrength] | None:
    """Return what `midway_strengths` has chosen; None if its cells have not all finished."""

    def run(cells: Sequence[Cell]) -> None:
        raise _NotChosenError

    try:
        return midway_strengths(sweep, run, download=download)
    except _NotChosenError:
        return None


def pilot_of(sweep: SweepSpec) -> SweepSpec:
    """Return the sweep with the pilot's folder, and without protected images."""
    return sweep.model_copy(
        update={"output": sweep.output / PILOT, "strength": "given", "protect": False}
    )


def with_strengths(sweep: SweepSpec, strengths: Sequence[ChosenStrength]) -> SweepSpec:
    """Return the sweep with the strength that was chosen for each of its data sets."""
    datasets = [
        _with_eps(dataset, chosen.eps)
        for dataset, chosen in zip(sweep.datasets, strengths, strict=True)
    ]
    return sweep.model_copy(update={"datasets": tuple(datasets), "strength": "given"})


def describe_pilot(sweep: SweepSpec) -> str:
    """Say what a pilot costs before the sweep."""
    rounds = len(LADDER).bit_length()
    cells = rounds * len(sweep.seeds.run[:_SEEDS]) * len(sweep.datasets)
    return (
        f"a pilot of up to {counted(cells, 'cell')} first chooses generator.eps (strength: midway)"
    )


def describe_round(cells: Sequence[Cell]) -> str:
    """Say what the cells of a round try."""
    tried = [f"{c.config.data.shown_as} at {in_255(c.config.generator.eps)}" for c in cells]
    return f"pilot: {', '.join(dict.fromkeys(tried))}"


def _search(sweep: SweepSpec, dataset: SweepDataset, download: bool) -> _Search:
    """Start the search for one data set, at the middle of its batch sizes, the smaller of two."""
    first_seed = Seeds(run=sweep.seeds.run[:1], target=sweep.seeds.target)
    own = sweep.model_copy(
        update={"datasets": (dataset,), "seeds": first_seed, "strength": "given"}
    )
    first = sweep_cells(own, download=download)[0]
    sizes = sweep.batches.sizes(first.axes["full"])
    return _Search(dataset, first.config.data.shown_as, sizes[(len(sizes) - 1) // 2])


def _at_rung(sweep: SweepSpec, search: _Search, rung: int) -> SweepSpec:
    """Return the pilot's runs at one rung of the ladder, as a sweep."""
    dataset = _with_eps(search.dataset, LADDER[rung] / 255)
    evaluation = {**dataset.settings.get("evaluation", {}), **_ARMS}
    settings = {**dataset.settings, "evaluation": evaluation}
    return pilot_of(sweep).model_copy(
        update={
            "datasets": (dataset.model_copy(update={"settings": settings}),),
            "batches": BatchGrid(listed=(search.batch,)),
            "seeds": Seeds(run=sweep.seeds.run[:_SEEDS], target=sweep.seeds.target),
            "budgets": sweep.budgets[:1] if "steps" not in sweep.budgets else ("steps",),
            "lr_rules": sweep.lr_rules[:1],
            "scopes": sweep.scopes[:1],
        }
    )


def _with_eps(dataset: SweepDataset, eps: float) -> SweepDataset:
    generator = {**dataset.settings.get("generator", {}), "eps": eps}
    settings = {**dataset.settings, "generator": generator}
    return dataset.model_copy(update={"settings": settings})


def _is_finished(cell: Cell) -> bool:
    outcome = cell.outcome()
    return outcome is not None and outcome.finished


def _require_finished(cells: Sequence[Cell]) -> None:
    for cell in cells:
        outcome = cell.outcome()
        assert outcome is not None, "a round ends with its last cell"
        if not outcome.finished:
            raise UserError(
                f"pilot: {cell.name} failed ({outcome.reason}); mend that, then start the sweep "
                "with --retry"
            )
