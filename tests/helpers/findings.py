"""Tables, curves, fits and findings, made for a test."""

import math
from typing import Any

import numpy as np
import pandas as pd

from analysis.findings.findings import Finding
from analysis.fits.instability import InstabilityFit
from analysis.fits.mean import MeanFit
from analysis.table.columns import COLUMNS
from analysis.table.table import CRITICAL_COLUMNS, Curve, Floats

BATCHES = tuple(2**k for k in range(1, 9))
LEVELS = {"digits": (0.995, 0.99, 0.1), "blood8": (0.906, 0.873, 0.125)}


def a_table(
    datasets: tuple[str, ...] = ("digits", "blood8"),
    *,
    batches: tuple[int, ...] = BATCHES,
    seeds: int = 5,
    budgets: tuple[str, ...] = ("epochs", "steps"),
    failures: tuple[tuple[str, int, int], ...] = (("digits", 2, 3), ("digits", 256, 1)),
    **changed: Any,
) -> pd.DataFrame:
    """A simulated sweep: a U at equal epochs, a gentler one at equal steps."""
    random = np.random.default_rng(7)
    rows = []
    for dataset in datasets:
        clean, noise, chance = LEVELS[dataset]
        for budget in budgets:
            bend, best = (0.018, 4.3) if budget == "epochs" else (0.008, 5.2)
            for batch in batches:
                x = math.log2(batch)
                spread = 0.05 + 0.012 * (x - best) ** 2 / 2
                for seed in range(seeds):
                    failed = budget == "epochs" and (dataset, batch, seed) in failures
                    final = 0.3 + bend * (x - best) ** 2 + random.normal(0, spread)
                    final = float(np.clip(final, chance / 2, 1))
                    measured = math.nan if failed else final
                    rows.append(
                        {
                            "dataset": dataset,
                            "arm": "protected",
                            "effective_batch": batch,
                            "seed": seed,
                            "target_seed": seed,
                            "budget": budget,
                            "lr_rule": "none",
                            "scope": "cluster",
                            "settings": "0123456789abcdef",
                            "optimizer_steps": 60 if budget == "steps" else 20 * -(-140 // batch),
                            "learning_rate": 1e-3,
                            "images_seen": 60 * batch,
                            "full_batch": 140,
                            "final_accuracy": measured,
                            "peak_accuracy": measured + 0.1,
                            "tail_accuracy": measured,
                            "detrended_oscillation": (
                                abs(random.normal(0.02, 0.006)) + 0.003 * (x - 5) ** 2
                            ),
                            "clean_accuracy": math.nan if failed else clean,
                            "noise_accuracy": math.nan if failed else noise,
                            "chance": chance,
                            "test_images": 360,
                            "tail_epochs": 8,
                            "images_per_second": 300 * batch**0.4,
                            "peak_memory_mib": 210 + 1.7 * batch + seed,
                            "failed": failed,
                            "reason": "loss is not finite at step 41" if failed else "",
                            "run": f"{dataset}-{budget}-b{batch}-s{seed}",
                            **changed,
                        }
                    )
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def a_measured_table(**changed: Any) -> pd.DataFrame:
    """Five seeds that predict critical batches of 10 B to 50 B; one at B = 128 is unbounded."""
    table = a_table(
        ("digits",), batches=(16, 32, 64, 128), failures=(("digits", 16, 3),), **changed
    )
    value = 10.0 * table["effective_batch"] * (table["seed"] + 1)
    value[(table["effective_batch"] == 128) & (table["seed"] == 4)] = math.inf
    value[table["failed"]] = math.nan
    return table.assign(**dict(zip(CRITICAL_COLUMNS, (value, value / 2, 2 * value), strict=True)))


def a_curve(k: int = 4, seeds: int = 3, **changed: Any) -> Curve:
    fields: dict[str, Any] = {
        "dataset": "digits",
        "arm": "protected",
        "budget": "steps",
        "lr_rule": "none",
        "scope": "cluster",
        "settings": "0123456789abcdef",
        "batches": 2 ** np.arange(4, 4 + k),
        "seeds": np.arange(seeds),
        "steps": np.full(k, 60),
        "accuracy": np.linspace(0.3, 0.5, k * seeds).reshape(k, seeds),
        "oscillation": np.full((k, seeds), 0.02),
        "critical": np.full((k, seeds), np.nan),
        "failed": np.zeros(k, np.int64),
        "full": 140,
        "clean": 0.99,
        "noise": 0.98,
        "chance": 0.1,
        "test_images": 360,
        "tail_epochs": 5,
    }
    return Curve(**fields | changed)


def a_fit(**changed: Any) -> MeanFit:
    line = np.linspace(0.4, 0.6, 5)
    fields: dict[str, Any] = {
        "flat_p": 0.001,
        "adjusted_p": 0.003,
        "detectable": 0.12,
        "difference": 0.31,
        "valley_p": 0.2,
        "adjusted_valley_p": 0.4,
        "optimum": 63.7,
        "interval": (32.2, 127.6),
        "lowest": 64,
        "best": 0.384,
        "best_interval": (0.331, 0.428),
        "as_good": (32, 64),
        "margin": 0.05,
        "at": np.geomspace(16, 128, 5),
        "mean": line,
        "low": line - 0.05,
        "high": line + 0.05,
    }
    return MeanFit(**fields | changed)


CANNOT_TELL: dict[str, Any] = {"adjusted_p": 0.4}
EQUIVALENT: dict[str, Any] = {"difference": 0.04}


def a_spread(kind: Any = "seeds", **changed: Any) -> InstabilityFit:
    line = np.full(5, 0.05)
    fields: dict[str, Any] = {
        "kind": kind,
        "both_ends_p": 0.001,
        "trend_p": 0.6,
        "adjusted_both_ends_p": 0.004,
        "adjusted_trend_p": 1.0,
        "rises": True,
        "largest_ratio": 5.0,
        "change": 1.2,
        "change_interval": (0.4, 3.6),
        "std": np.array([0.09, 0.05, 0.06, 0.08]),
        "at": np.geomspace(16, 128, 5),
        "fitted": line,
        "low": line / 2,
        "high": line * 2,
    }
    return InstabilityFit(**fields | changed)


def a_finding(mean: MeanFit | None = None, **changed: Any) -> Finding:
    curve = a_curve(**changed)
    return Finding(curve, mean or a_fit(), a_spread(), a_spread("oscillation"))


def predictions(*values: float) -> Floats:
    """Critical batches of the runs of `a_curve`, float64 [4, 3]: the values, repeated."""
    return np.resize(np.array(values, np.float64), (4, 3))
