"""The tidy table of a sweep, and its curves."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.table.columns import ASSUMED, COLUMNS, OPTIONAL, checked
from bigbatch_ue.files.atomic import atomic_file
from bigbatch_ue.files.paths import require_file
from bigbatch_ue.reporting.words import counted
from bigbatch_ue.runtime.console import note
from bigbatch_ue.runtime.errors import UserError

Floats = NDArray[np.float64]

CRITICAL_COLUMNS = ("critical_batch", "critical_batch_low", "critical_batch_high")
"""Gradient noise scale of a run and its interval, in images: NaN not measured, inf unbounded."""

CURVE_COLUMNS = ("dataset", "arm", "budget", "lr_rule", "scope", "settings")
"""Columns whose values all runs of a curve share."""
_SHARED = ("chance", "test_images", "full_batch", "tail_epochs")
"""Numbers that all successful runs of a curve share."""
_TREND = "oscillation"
"""Column of older tables, which includes the trend of a run."""
TARGET_COLUMNS = (*CURVE_COLUMNS, "effective_batch", "seed", "target_seed")
"""Columns whose values identify a record."""


@dataclass(frozen=True)
class CriticalBatch:
    """The critical batch that the gradient noise of some runs predicts, in images.

    It is the noise scale in the space of the generators' parameters (McCandlish et al., 2018, arXiv
    1812.06162). Well below it, twice the batch needs half the steps. Well above it, it needs as
    many.

    Attributes:
        value: median over the runs; inf if it is unbounded, as everywhere here.
        low: lower end of the middle 80 % of the runs, rounded outwards to a run.
        high: upper end.
        runs: number of runs that measured it.
        unbounded: number of these runs whose gradient cannot be told from its noise.
    """

    value: float
    low: float
    high: float
    runs: int
    unbounded: int


@dataclass(frozen=True)
class Curve:
    """Runs that differ only in effective batch and seed: k sizes by n seeds.

    Accuracies are fractions in [0, 1] of the clean test set; low is good protection. A run that is
    missing or has failed is NaN. The targets of a run are averaged.

    Attributes:
        dataset: name of the data set.
        arm: training images of the targets, in words: `protected`, `protected 80%`, ...
        budget: `epochs` or `steps`.
        lr_rule: `none`, `sqrt` or `linear`.
        scope: `cluster` or `all`.
        settings: digest of all other settings that decide the result.
        batches: int64 [k], effective batches, ascending.
        seeds: int64 [n], ascending.
        steps: int64 [k], optimizer steps of the generators.
        accuracy: float64 [k, n], after the last epoch.
        oscillation: float64 [k, n], standard deviation of a run's accuracies around their
            least-squares line in the last quarter of the epochs, sqrt(RSS / (tail_epochs - 2)); NaN
            below three epochs.
        critical: float64 [k, n], critical batch that the gradient noise of each run predicts, in
            images; inf where it is unbounded, NaN where it was not measured.
        failed: int64 [k], number of runs that failed or diverged.
        full: images of a whole cluster (scope `all`: of the whole set): B of full-batch training.
        clean: mean accuracy of targets trained on clean images; NaN if there are none.
        noise: mean accuracy of targets trained on random noise; NaN if there are none.
        chance: accuracy of guessing.
        test_images: size of the test set.
        tail_epochs: epochs in the last quarter.
    """

    dataset: str
    arm: str
    budget: str
    lr_rule: str
    scope: str
    settings: str
    batches: NDArray[np.int64]
    seeds: NDArray[np.int64]
    steps: NDArray[np.int64]
    accuracy: Floats
    oscillation: Floats
    critical: Floats
    failed: NDArray[np.int64]
    full: int
    clean: float
    noise: float
    chance: float
    test_images: int
    tail_epochs: int

    @property
    def x(self) -> Floats:
        """The effective batches as log2 B, float64 [k]."""
        return np.log2(self.batches.astype(np.float64))

    @property
    def resolution(self) -> float:
        """The accuracy of a single test image."""
        return 1 / max(self.test_images, 1)

    @property
    def predicted(self) -> CriticalBatch | None:
        """The critical batch that all runs of the curve predict; None if none measured it."""
        return critical_batch_of(self.critical)

    @property
    def key(self) -> tuple[str, ...]:
        """The values that identify the curve, in the order of `CURVE_COLUMNS`."""
        return tuple(getattr(self, name) for name in CURVE_COLUMNS)

    @property
    def title(self) -> str:
        """The name of the curve in words, such as `digits, protected: equal epochs`."""
        parts = [f"{self.dataset}, {self.arm}: equal {self.budget}"]
        if self.lr_rule != "none":
            parts.append(f"{self.lr_rule} learning rate")
        if self.scope != "cluster":
            parts.append(f"scope {self.scope}")
        return ", ".join(parts)


def critical_batch_of(values: Floats) -> CriticalBatch | None:
    """Return the median and the middle 80 % of runs' critical batches; None if all are NaN."""
    known = values[~np.isnan(values)]
    if not known.size:
        return None
    low = np.quantile(known, 0.1, method="lower")
    high = np.quantile(known, 0.9, method="higher")
    unbounded = int(np.isinf(known).sum())
    return CriticalBatch(float(np.median(known)), float(low), float(high), known.size, unbounded)


def write_table(table: pd.DataFrame, folder: Path) -> None:
    """Write `table.csv` and `table.parquet` into `folder`, each atomically."""
    with atomic_file(folder / "table.csv") as temporary:
        table.to_csv(temporary, index=False)
    with atomic_file(folder / "table.parquet") as temporary:
        table.to_parquet(temporary, index=False)


def read_table(path: Path) -> pd.DataFrame:
    """Read a table, CSV or parquet, that `write_table` or another program has written.

    Columns that it lacks are as `OPTIONAL` says; a note names those of them that count as known.
    The oscillation of an older table, which includes a run's trend, is left out with a note. A
    record that is there twice is kept once.

    Raises:
        UserError: the file is missing, is not a table, lacks a column, a value has the wrong type
            or is out of range, or two records of one target disagree.
    """
    if path.exists():
        require_file(path)
    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
        else:
            _require_commas(path)
            table = pd.read_csv(path, dtype=str, keep_default_na=False)
            if not isinstance(table.index, pd.RangeIndex):
                raise ValueError("a line has more values than there are columns")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `collect` first") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: not a readable table ({error})") from None
    repeated = [name for name in COLUMNS if f"{name}.1" in table]  # as pandas renames the second
    if repeated:
        raise UserError(f"{path}: column {repeated[0]} is there twice; keep one")
    missing = [name for name in COLUMNS if name not in table and name not in OPTIONAL]
    if missing:
        raise UserError(f"{path}: {counted(len(missing), 'column')} missing: {', '.join(missing)}")
    _note_trend(table, path)
    _note_columns(table, path)
    try:
        table = checked(table[[name for name in COLUMNS if name in table]])
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    _require_agreement(table, path)
    return _once(table, path)


def _require_commas(path: Path) -> None:
    """Stop if the columns of a CSV file are separated by another character than the comma."""
    names = pd.read_csv(path, nrows=0).columns
    found = re.search("[;\t|]", names[0]) if len(names) == 1 else None
    if found:
        raise UserError(f"{path}: its columns are separated by {found[0]!r}; save it with commas")


def _note_trend(table: pd.DataFrame, path: Path) -> None:
    """Say that the oscillation of an older table is left out."""
    if _TREND in table and "detrended_oscillation" not in table:
        note(
            f"{path}: the column {_TREND} is left out, because it includes the trend of a run; "
            "`collect` measures it anew, as detrended_oscillation",
            warning=True,
        )


def _note_columns(table: pd.DataFrame, path: Path) -> None:
    """Say what all rows count as for want of a column, and which columns are not read."""
    assumed = [f"{name}={OPTIONAL[name]}" for name in ASSUMED if name not in table]
    if assumed:
        note(f"{path}: columns that are missing count as {', '.join(assumed)}")
    unread = [str(name) for name in table if name not in COLUMNS and name != _TREND]
    if unread:
        note(f"{path}: columns that are not read: {', '.join(unread)}", warning=True)


def _require_agreement(table: pd.DataFrame, path: Path) -> None:
    """Stop if what all records of a curve share differs between two of them."""
    for _, rows in table[~table["failed"]].groupby(list(CURVE_COLUMNS)):
        steps = ("optimizer_steps",) if rows["budget"].iloc[0] == "steps" else ()
        for name in (*_SHARED, *steps):
            usual = rows[name].mode()[0]
            odd = rows[rows[name] != usual]
            if not odd.empty:
                raise UserError(
                    f"{path}: line {odd.index[0] + 2}, {name}={odd[name].iloc[0]:g}: must be "
                    f"{usual:g}, as in the other records of its curve"
                )


def _once(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Keep each record once; two that disagree are an error."""
    table = table.drop_duplicates()
    again = table[table.duplicated(list(TARGET_COLUMNS), keep=False)]
    if not again.empty:
        first = again.iloc[0]
        same = again[(again[list(TARGET_COLUMNS)] == first[list(TARGET_COLUMNS)]).all(axis=1)]
        lines = " and ".join(str(index + 2) for index in same.index[:2])
        differing = [name for name in COLUMNS if same[name].nunique(dropna=False) > 1]
        raise UserError(
            f"{path}: lines {lines} are records of one target that disagree in "
            f"{', '.join(differing)}; remove one"
        )
    return table.reset_index(drop=True)


def curves(table: pd.DataFrame) -> Iterator[Curve]:
    """Yield every curve of a table, in the order of data set, arm, budget, rule and scope."""
    for _, rows in table.groupby(list(CURVE_COLUMNS), sort=True):
        yield _curve(rows)


def rows_of(curve: Curve, table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a table that a curve was made of."""
    return table[(table[list(CURVE_COLUMNS)] == list(curve.key)).all(axis=1)]


def _curve(rows: pd.DataFrame) -> Curve:
    values = rows.assign(failed=rows["failed"].astype(np.int64))
    for column in ("final_accuracy", "detrended_oscillation"):
        values[column] = values[column].mask(rows["failed"])

    def matrix(column: str) -> pd.DataFrame:
        return values.pivot_table(
            column, "effective_batch", "seed", aggfunc="mean", dropna=False
        ).sort_index()

    accuracy = matrix("final_accuracy")
    runs = values.groupby(["effective_batch", "seed"], as_index=False)["failed"].max()
    by_size = values.groupby("effective_batch")
    first = rows.iloc[0]
    return Curve(
        **{name: str(first[name]) for name in CURVE_COLUMNS},
        batches=accuracy.index.to_numpy(np.int64),
        seeds=accuracy.columns.to_numpy(np.int64),
        steps=by_size["optimizer_steps"].max().to_numpy(np.int64),
        accuracy=accuracy.to_numpy(np.float64),
        oscillation=matrix("detrended_oscillation").to_numpy(np.float64),
        critical=matrix("critical_batch").to_numpy(np.float64),
        failed=runs.groupby("effective_batch")["failed"].sum().to_numpy(np.int64),
        full=int(rows["full_batch"].max()),
        clean=float(rows.groupby("seed")["clean_accuracy"].mean().mean()),
        noise=float(rows.groupby("seed")["noise_accuracy"].mean().mean()),
        chance=float(rows["chance"].max()),
        test_images=int(rows["test_images"].max()),
        tail_epochs=int(rows["tail_epochs"].max()),
    )
