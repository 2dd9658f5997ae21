"""Trained arms, kept under a digest of what decides their answer and shared between processes."""

from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout

from bigbatch_ue.evaluation.arms import Arm, ArmSpec, load_arms, save_arms
from bigbatch_ue.evaluation.report.page import RESULTS
from bigbatch_ue.evaluation.subject import Subject
from bigbatch_ue.evaluation.train_arm import train_arm
from bigbatch_ue.runtime.accelerator import engine_name
from bigbatch_ue.runtime.errors import UserError


def train_apart(
    mine: Sequence[ArmSpec], subject: Subject, folder: Path, device: torch.device
) -> None:
    """Train arms that no other process has or is at; then wait for those that others are at."""
    waiting = list(enumerate(mine, 1))
    for blocking in (False, True):
        now, waiting = waiting, []
        for number, case in now:
            path = _arm_file(case, subject)
            try:
                with FileLock(path.with_suffix(".lock"), blocking=blocking):
                    if not path.exists():
                        arm = train_arm(case, subject, device, number=f"{number}/{len(mine)}")
                        save_arms(path, [arm])
            except Timeout:
                waiting.append((number, case))
            else:
                _record(folder, case, subject)


def train_together(
    mine: Sequence[ArmSpec], subject: Subject, folder: Path, accelerator: Accelerator
) -> None:
    """Train arm after arm, all ranks the same one."""
    if engine_name(accelerator) != "ddp":
        raise UserError(
            "evaluation.share=batches needs launchers/accelerate/ddp.yaml; or use share=arms"
        )
    ranks = accelerator.num_processes
    for number, case in enumerate(mine, 1):
        path = _arm_file(case, subject, ranks)
        if broadcast_object_list([not path.exists()])[0]:
            place = f"{number}/{len(mine)}"
            arm = train_arm(case, subject, accelerator.device, number=place, ranks=accelerator)
            if accelerator.is_main_process:
                save_arms(path, [arm])
        if accelerator.is_main_process:
            _record(folder, case, subject, ranks)


def _arm_file(case: ArmSpec, subject: Subject, ranks: int = 1) -> Path:
    """The file of an arm, whether it is there or not."""
    kept = subject.config.data.root / "targets"
    kept.mkdir(parents=True, exist_ok=True)
    return kept / f"{subject.inputs(case, ranks)}.json"


def finished_arm(case: ArmSpec, subject: Subject, ranks: int = 1) -> Arm | None:
    """The arm as this evaluation tells it, if it has been trained."""
    path = _arm_file(case, subject, ranks)
    if not path.exists():
        return None
    found = load_arms(path)
    if len(found) != 1:
        raise UserError(f"{path}: expected one arm, found {len(found)}; remove it")
    return subject.own(found[0])


def _record(folder: Path, case: ArmSpec, subject: Subject, ranks: int = 1) -> None:
    """Put a finished arm into `results.json`, in the place of an older one of the same name."""
    arm = finished_arm(case, subject, ranks)
    assert arm is not None
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RESULTS
    with FileLock(path.with_suffix(".lock")):
        kept = load_arms(path) if path.exists() else []
        if arm not in kept:
            save_arms(path, [old for old in kept if old.key != arm.key] + [arm])
