"""The demo: train, protect and evaluate real digits at three effective batches, in minutes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from bigbatch_ue import __version__
from bigbatch_ue.config.load import load_config
from bigbatch_ue.config.schema import Config
from bigbatch_ue.evaluation.arms import Arm
from bigbatch_ue.evaluation.evaluate import evaluate
from bigbatch_ue.evaluation.report.page import write_report
from bigbatch_ue.evaluation.report.terminal import arms_table
from bigbatch_ue.files.formats import write_json
from bigbatch_ue.protection.protect import protect
from bigbatch_ue.reporting.words import percent, span
from bigbatch_ue.training.train import train

PRESET = "digits"
BATCHES = (8, 32, 128)
PROTECTED = BATCHES[-1]
SUMMARY = "summary.json"


def demo(folder: Path = Path("runs/demo"), *, seed: int = 0, overrides: Sequence[str] = ()) -> Path:
    """Train, protect and evaluate the `digits` preset at each of `BATCHES`, with equal steps.

    Results of an earlier call are reused.

    Args:
        folder: of the runs, the report and the summary.
        seed: of the runs and of the targets.
        overrides: `key=value` settings that win over the preset, such as a smaller network.

    Returns:
        The path of `summary.json`: arms, seed, data set and versions.

    Raises:
        UserError: `folder` contains runs with other settings.
    """
    console = Console(soft_wrap=True)
    arms: list[Arm] = []
    evaluations = []
    for batch in BATCHES:
        config = demo_config(folder, batch, seed, overrides)
        console.print(f"[bold]effective batch {batch}[/]: {config.run_folder}")
        run = train(config, resume=True)
        if batch == PROTECTED:
            console.print(str(protect(run.folder, form="png", at="training")))
        arms += [arm for arm in evaluate(run.folder, overrides=_protocol(seed)) if arm not in arms]
        evaluations.append(run.evaluation)
    summary = folder / SUMMARY
    write_json(summary, _summary(arms, seed))
    console.print(arms_table(arms))
    console.print(f"report: {write_report(evaluations, folder)}")
    console.print(f"protected images: {run.folder / 'protected'}; summary: {summary}")
    console.print(sentence(arms))
    return summary


def demo_config(folder: Path, batch: int, seed: int, overrides: Sequence[str] = ()) -> Config:
    """Load the configuration of the demo's run at one effective batch."""
    config = load_config(
        preset=PRESET,
        overrides=[*overrides, f"batch.effective={batch}", f"seed={seed}", "budget.kind=steps"],
    )
    return config.model_copy(update={"output": folder / f"b{batch}-s{seed}"})


def _protocol(seed: int) -> list[str]:
    """Return the smallest evaluation that shows the effect: three arms, one seed."""
    return [
        f"evaluation.seeds=[{seed}]",
        "evaluation.arms=[clean, random_noise, uc]",
        "evaluation.fractions=[1.0]",
    ]


def sentence(arms: Sequence[Arm]) -> str:
    """Say in plain words what the arms show."""
    protected = [arm for arm in arms if arm.arm == "uc"]
    accuracies = " / ".join(percent(arm.final_accuracy) for arm in protected)
    batches = " / ".join(span(arm.batches) for arm in protected)
    clean, noise = (
        next(arm.final_accuracy for arm in arms if arm.arm == name)
        for name in ("clean", "random_noise")
    )
    return (
        f"A network trained on protected digits gets {accuracies} % of the clean test digits right "
        f"(effective batch {batches}); one trained on unprotected digits gets {percent(clean)} %, "
        f"and one trained on digits with random noise of the same size {percent(noise)} %."
    )


def _summary(arms: Sequence[Arm], seed: int) -> dict[str, Any]:
    shown = ("effective_batch", "final_accuracy", "peak_accuracy", "optimizer_steps", "seconds")
    return {
        "dataset": PRESET,
        "seed": seed,
        "arms": [{"name": arm.arm, **{key: getattr(arm, key) for key in shown}} for arm in arms],
        "versions": {"bigbatch_ue": __version__, "torch": torch.__version__},
    }
