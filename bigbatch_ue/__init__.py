"""Unlearnable clusters at any effective batch size, with the same result on every engine.

The names in `__all__` are the Python API (docs/python.md). Each is imported at its first use, so
that importing the package loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bigbatch_ue.batching.plan import BatchPlan as BatchPlan
    from bigbatch_ue.batching.plan import make_plan as make_plan
    from bigbatch_ue.config.load import load_config as load_config
    from bigbatch_ue.config.schema import Config as Config
    from bigbatch_ue.evaluation.arms import Arm as Arm
    from bigbatch_ue.evaluation.evaluate import evaluate as evaluate
    from bigbatch_ue.evaluation.evaluate import evaluate_external as evaluate_external
    from bigbatch_ue.evaluation.report.evaluation import Evaluation as Evaluation
    from bigbatch_ue.protection.protect import ProtectionReport as ProtectionReport
    from bigbatch_ue.protection.protect import protect as protect
    from bigbatch_ue.protection.visibility import Visibility as Visibility
    from bigbatch_ue.runs.folder import Run as Run
    from bigbatch_ue.runs.folder import load_run as load_run
    from bigbatch_ue.runs.result import TrainingResult as TrainingResult
    from bigbatch_ue.runs.result import read_result as read_result
    from bigbatch_ue.runtime.errors import UserError as UserError
    from bigbatch_ue.runtime.signals import Interrupted as Interrupted
    from bigbatch_ue.sweeps import jobs
    from bigbatch_ue.sweeps.cells import Cell as Cell
    from bigbatch_ue.sweeps.cells import Outcome as Outcome
    from bigbatch_ue.sweeps.spec import SweepSpec as SweepSpec
    from bigbatch_ue.sweeps.spec import load_sweep as load_sweep
    from bigbatch_ue.training.train import train as train

    sweep = jobs.run_sweep

__version__ = "0.1.0"

_ORIGINS = {
    "Arm": "evaluation.arms",
    "BatchPlan": "batching.plan",
    "Cell": "sweeps.cells",
    "Config": "config.schema",
    "Evaluation": "evaluation.report.evaluation",
    "Interrupted": "runtime.signals",
    "Outcome": "sweeps.cells",
    "ProtectionReport": "protection.protect",
    "Run": "runs.folder",
    "SweepSpec": "sweeps.spec",
    "TrainingResult": "runs.result",
    "UserError": "runtime.errors",
    "Visibility": "protection.visibility",
    "evaluate": "evaluation.evaluate",
    "evaluate_external": "evaluation.evaluate",
    "load_config": "config.load",
    "load_run": "runs.folder",
    "load_sweep": "sweeps.spec",
    "make_plan": "batching.plan",
    "protect": "protection.protect",
    "read_result": "runs.result",
    "sweep": "sweeps.jobs:run_sweep",
    "train": "training.train",
}
"""The module of each name, and `:` with its name there if that differs."""

__all__ = ["__version__", *_ORIGINS]

if not TYPE_CHECKING:  # a type checker is to know exactly the names above

    def __getattr__(name: str) -> Any:
        if name not in _ORIGINS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module, _, there = _ORIGINS[name].partition(":")
        value = getattr(import_module(f"{__name__}.{module}"), there or name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
