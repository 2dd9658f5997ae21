"""Surrogates of tiny networks, prepared for a test."""

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from bigbatch_ue.config.sections import AugmentConfig, SurrogateConfig, TrainingRecipe
from bigbatch_ue.data.decoded import DataSet, ImageSet
from bigbatch_ue.networks.backbone import Normalised
from bigbatch_ue.networks.surrogate import prepare_surrogate
from bigbatch_ue.runs.identity import DataIdentity
from tests.helpers.networks import CPU, NARROW


def digits(classes: int = 10) -> DataSet:
    """Real digits, 8 x 8 pixels: 200 to train on, 100 to test on."""
    found = load_digits()
    images = (found.images * 255 / 16).round().astype(np.uint8)[:, None]
    labels = (found.target % classes).astype(np.int64)
    names = [str(index) for index in range(300)]
    identity = DataIdentity("digits", "f" * 12)
    return DataSet(
        "digits",
        identity,
        [str(digit) for digit in range(classes)],
        ImageSet(images[:200], labels[:200], names[:200], np.arange(200)),
        ImageSet(images[200:300], labels[200:300], names[200:], np.arange(100)),
        available=200,
    )


def prepared(
    weights: str, cache: Path, *, data: DataSet | None = None, seed: int = 0, **more: Any
) -> Normalised:
    return prepare_surrogate(
        SurrogateConfig(
            **{
                "model": "resnet18",
                "args": NARROW,
                "weights": weights,
                "fit": TrainingRecipe(epochs=1, batch=50),
                **more,
            }
        ),
        data or digits(),
        augment=AugmentConfig(pad=1),
        seed=seed,
        cache=cache,
        device=CPU,
    )
