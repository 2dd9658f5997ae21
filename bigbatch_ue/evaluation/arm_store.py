"""Trained arms: stored under a digest of their inputs, and trained by several processes or ranks.

An arm is trained once and stored in `<data.root>/targets`, whoever asks for it. An interrupted
evaluation therefore continues, jobs and ranks divide the arms, and runs at other batch sizes use
the same controls.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from filelock import Timeout

from bigbatch_ue.evaluation.arms import Arm, ArmSpec, load_arms, save_arms
from bigbatch_ue.evaluation.report.page import RESULTS
from bigbatch_ue.evaluation.subject import Subject
from bigbatch_ue.evaluation.train_arm import train_arm
from bigbatch_ue.files.locks import locked
from bigbatch_ue.runtime.accelerator import engine_name
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.ranks import EngineName


def train_sharing_arms(
    specs: Sequence[ArmSpec], subject: Subject, folder: Path, device: torch.device
) -> None:
    """Train the arms that no other process has finished or started, then wait for the rest."""
    remaining = list(enumerate(specs, 1))
    for blocking in (False, True):
        current, remaining = remaining, []
        for number, spec in current:
            path = _arm_path(spec, subject)
            try:
                with locked(path.with_suffix(".lock"), blocking=blocking):
                    if not path.exists():
                        arm = train_arm(spec, subject, device, number=f"{number}/{len(specs)}")
                        save_arms(path, [arm])
            except Timeout:
                remaining.append((number, spec))
            else:
                _add_to_results(folder, spec, subject)


def train_sharing_batches(
    specs: Sequence[ArmSpec], subject: Subject, folder: Path, accelerator: Accelerator
) -> None:
    """Train one arm after the other; all ranks train each batch together.

    Raises:
        UserError: the engine is not DDP.
    """
    if engine_name(accelerator) is not EngineName.DDP:
        raise UserError(
            "evaluation.share=batches: needs DDP; start with launchers/accelerate/ddp.yaml, or use "
            "evaluation.share=arms"
        )
    ranks = accelerator.num_processes
    for number, spec in enumerate(specs, 1):
        path = _arm_path(spec, subject, ranks)
        if broadcast_object_list([not path.exists()])[0]:
            position = f"{number}/{len(specs)}"
            arm = train_arm(spec, subject, accelerator.device, number=position, ranks=accelerator)
            if accelerator.is_main_process:
                save_arms(path, [arm])
        if accelerator.is_main_process:
            _add_to_results(folder, spec, subject, ranks)


def finished_arm(spec: ArmSpec, subject: Subject, ranks: int = 1) -> Arm | None:
    """Return an arm with the facts of this evaluation, or None if it is not trained yet.

    Raises:
        UserError: the file of the arm is damaged.
    """
    path = _arm_path(spec, subject, ranks)
    if not path.exists():
        return None
    arms = load_arms(path)
    if len(arms) != 1:
        raise UserError(f"{path}: expected one arm, found {len(arms)}; delete the file")
    return subject.with_facts(arms[0])


def folder_of_arms(root: Path) -> Path:
    """Return the folder of finished arms below `data.root`."""
    return root / "targets"


def _arm_path(spec: ArmSpec, subject: Subject, ranks: int = 1) -> Path:
    """Return the path of an arm's file, whether it exists or not, in a folder that exists."""
    folder = folder_of_arms(subject.config.data.root)
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{subject.inputs(spec, ranks)}.json"


def _add_to_results(folder: Path, spec: ArmSpec, subject: Subject, ranks: int = 1) -> None:
    """Add a finished arm to `results.json`, in place of an older one with the same key."""
    arm = finished_arm(spec, subject, ranks)
    assert arm is not None
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RESULTS
    with locked(path.with_suffix(".lock")):
        arms = load_arms(path) if path.exists() else []
        if arm not in arms:
            others = [old for old in arms if old.key != arm.key and old.inputs != arm.inputs]
            save_arms(path, [*others, arm])
