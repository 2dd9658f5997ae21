from collections.abc import Iterator
from typing import Any

import pytest
import torch

from bigbatch_ue.evaluation import arm_store
from bigbatch_ue.evaluation.arms import Arm, ArmSpec
from bigbatch_ue.evaluation.subject import Subject
from bigbatch_ue.evaluation.train_arm import train_arm
from tests.helpers.runs import undrawn
from tests.helpers.subjects import make_subject


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A subject that no test changes."""
    return make_subject(tmp_path_factory.mktemp("subject"))


@pytest.fixture
def no_drawings() -> Iterator[None]:
    """Evaluations of this test draw nothing."""
    with undrawn():
        yield


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arms trained in this test, in order."""
    names: list[str] = []

    def counting(spec: ArmSpec, *rest: Any, **more: Any) -> Arm:
        names.append(spec.arm)
        return train_arm(spec, *rest, **more)

    monkeypatch.setattr(arm_store, "train_arm", counting)
    return names
