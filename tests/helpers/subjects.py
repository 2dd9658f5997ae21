"""Subjects of an evaluation, and arms of theirs."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigbatch_ue.config.load import revise_evaluation
from bigbatch_ue.config.names import ArmName, Countermeasure
from bigbatch_ue.evaluation.arms import ArmSpec
from bigbatch_ue.evaluation.subject import Subject
from bigbatch_ue.protection.perturbations import Perturbations
from bigbatch_ue.runs.folder import load_run
from tests.helpers.runs import SMALL, load_learned, make_run


def make_subject(folder: Path, *overrides: str, scale: float = 1.0) -> Subject:
    """Random perturbations of digits, and as the control those of half the size."""
    run = make_run(folder, *SMALL, scale=scale)
    config = revise_evaluation(load_run(run)[0], overrides=overrides)
    data, learned = load_learned(run)

    def features() -> NDArray[np.float32]:
        return data.train.images.reshape(160, -1).astype(np.float32)

    return Subject(
        name=ArmName.UC,
        config=config,
        data=data,
        perturbations=learned,
        image_groups=learned.assignment,
        features=features,
        control=Perturbations(learned.delta / 2, learned.assignment[::-1].copy(), learned.eps),
        facts={"run_seed": 5, "effective_batch": 4, "smallest_batch": 3, "optimizer_steps": 7},
    )


def arm_spec(arm: str, fraction: float = 1.0, seed: int = 0, **changed: Any) -> ArmSpec:
    return ArmSpec(ArmName(arm), Countermeasure.NONE, fraction, "own", seed)._replace(**changed)
