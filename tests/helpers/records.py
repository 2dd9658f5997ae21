"""Records of trained arms."""

from dataclasses import replace
from typing import Any

import numpy as np

from bigbatch_ue.evaluation.arms import Arm


def same(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "seconds"}


def arm(**changed: Any) -> Arm:
    record = Arm(
        dataset="digits",
        arm="uc",
        countermeasure="none",
        fraction=1.0,
        labels="own",
        target="resnet18",
        seed=0,
        final_accuracy=0.412,
        peak_accuracy=0.55,
        tail_mean=0.42,
        tail_std=0.01,
        train_accuracy=0.99,
        balanced_accuracy=0.41,
        auc=0.8,
        accuracies=[0.55, 0.412],
        losses=[1.5, 0.4],
        confusion=[[3, 1], [2, 4]],
        steps=345,
        images=1437,
        seconds=12.34,
        run_seed=0,
        effective_batch=1024,
        optimizer_steps=60,
        inputs="digest",
    )
    return replace(record, **changed)


def an_arm(final: float = 0.2, *, classes: int = 10, epochs: int = 6, **changed: Any) -> Arm:
    """A record such as an evaluation writes; its curve rises towards `final`."""
    random = np.random.default_rng([int(1e6 * final), changed.get("seed", 0)])
    rise = 1 - np.exp(-np.arange(1, epochs + 1) / 3)
    accuracies = (final * rise + random.normal(0, 0.01, epochs)).clip(0, 1).tolist()
    accuracies[-1] = final
    confusion = random.integers(3, size=(classes, classes)) + (20 * final * np.eye(classes))
    last = accuracies[-max(epochs // 4, 1) :]
    record = arm(
        final_accuracy=final,
        peak_accuracy=max(accuracies),
        tail_mean=float(np.mean(last)),
        tail_std=float(np.std(last)),
        train_accuracy=0.991,
        balanced_accuracy=final * 0.98,
        auc=0.5 + final / 2.1,
        accuracies=accuracies,
        losses=(2.3 * (1 - 0.9 * rise)).tolist(),
        confusion=confusion.astype(int).tolist(),
        run_seed=None,
        effective_batch=None,
        optimizer_steps=0,
        inputs="",
    )
    return replace(record, **changed)


def own(final: float = 0.2, **changed: Any) -> Arm:
    return an_arm(
        final, **{"run_seed": 0, "effective_batch": 1024, "optimizer_steps": 60} | changed
    )


def clean(final: float = 0.95, **changed: Any) -> Arm:
    return an_arm(final, **{"arm": "clean", "fraction": 0.0} | changed)
