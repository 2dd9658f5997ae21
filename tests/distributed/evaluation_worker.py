"""One rank of the evaluation tests: test one trained target, and train others with all ranks.

Usage, in each rank: THIS RUN WEIGHTS OUT
"""

import sys
from dataclasses import asdict
from pathlib import Path

import torch

from bigbatch_ue.config.load import revise_evaluation
from bigbatch_ue.config.names import ArmName
from bigbatch_ue.data.decoded import prepare_dataset
from bigbatch_ue.evaluation.evaluate import run_evaluation
from bigbatch_ue.evaluation.metrics import measure
from bigbatch_ue.evaluation.subject import Subject
from bigbatch_ue.files.formats import write_json
from bigbatch_ue.files.tensor_files import read_tensors, write_tensors
from bigbatch_ue.networks.backbone import build_network
from bigbatch_ue.networks.inference import predict
from bigbatch_ue.networks.spec import NetworkSpec
from bigbatch_ue.protection.perturbations import load_perturbations
from bigbatch_ue.runs.folder import load_run
from bigbatch_ue.runtime.accelerator import start_accelerator

NARROW = {"channels": [8, 8, 16, 16]}
TRANSFORMER = (  # no batch norm: a rank's part of a batch counts like the whole
    "target.model=vit_tiny_patch16_224",
    "target.args={depth: 1, embed_dim: 32, num_heads: 2}",
    "target.fit={optimizer: sgd, epochs: 2, batch: 31, lr: 0.05}",
    "evaluation.share=batches",
    "evaluation.seeds=[0]",
    "evaluation.arms=[clean, uc]",
    "evaluation.fractions=[1.0]",
    "evaluation.countermeasures=[cutmix]",
    "evaluation.countered=[uc]",
)


def network() -> torch.nn.Module:
    """A target with batch norm, untrained."""
    return build_network(NetworkSpec("resnet18", 1, 8, NARROW), 10)


def main(run_folder: Path, weights: Path, out: Path) -> None:
    accelerator = start_accelerator()
    config, run = load_run(run_folder)
    config = revise_evaluation(config, overrides=[*TRANSFORMER, f"data.root={out / 'data'}"])
    data = prepare_dataset(config.data)
    model = network()
    state, _ = read_tensors(weights)
    if not accelerator.is_main_process:  # DDP leaves each rank its own running statistics
        state = {k: v + 1 if "running" in k else v for k, v in state.items()}
    model.load_state_dict(state, strict=False)
    scores = predict(model, data.test.images, accelerator.device, accelerator, batch=50)
    subject = Subject(
        name=ArmName.UC,
        config=config,
        data=data,
        perturbations=load_perturbations(config, run, data),
        image_groups=data.train.labels,
        features=lambda: data.train.images.reshape(len(data.train), -1).astype("float32"),
    )
    arms = run_evaluation(subject, out / "evaluation", (1, 1), accelerator)
    if accelerator.is_main_process:
        write_tensors(out / "scores.safetensors", {"scores": scores}, {})
        write_json(out / "measures.json", asdict(measure(scores, data.test.labels)))
        write_json(out / "arms.json", [asdict(arm) for arm in arms])
    accelerator.end_training()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
