"""Target networks: presets build, bodies are loaded, and a probe's encoder stays frozen."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from bigbatch_ue.config.evaluation_sections import TargetConfig
from bigbatch_ue.config.load import load_config, revise_evaluation
from bigbatch_ue.config.names import TARGETS
from bigbatch_ue.config.sections import AugmentConfig
from bigbatch_ue.evaluation.target import WithLinearHead, build_target
from bigbatch_ue.networks.classifier import train_classifier
from bigbatch_ue.networks.recipe import TrainingSettings
from bigbatch_ue.runtime.errors import UserError

CPU = torch.device("cpu")
NARROW = {"channels": [8, 8, 16, 16]}


def images(count: int = 24, channels: int = 1, size: int = 12) -> np.ndarray[Any, Any]:
    shape = (count, channels, size, size)
    return np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)


def target(weights: str = "scratch", seed: int = 0, **changed: Any) -> nn.Module:
    settings = {"model": "resnet18", "args": NARROW, "weights": weights, **changed}
    config = TargetConfig.model_validate({"fit": {"epochs": 1, "batch": 8}, **settings})
    return build_target(config, images(), 3, augment=AugmentConfig(), seed=seed, device=CPU)


@pytest.mark.parametrize("size", [28, 64])
@pytest.mark.parametrize("name", TARGETS)
def test_every_preset_builds_and_gives_logits(name: str, size: int) -> None:
    config = revise_evaluation(load_config(), name).target
    assert timm.is_model(config.model)
    model = build_target(
        config, images(2, 3, size), 5, augment=AugmentConfig(), seed=0, device=CPU
    ).eval()
    with torch.inference_mode():
        assert model(torch.zeros(2, 3, size, size)).shape == (2, 5)


def test_unknown_preset_and_settings_of_another_run_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"target: unknown name 'resnet19'; allowed: resnet18, .*vit_small"
    ):
        revise_evaluation(load_config(), "resnet19")
    with pytest.raises(UserError, match=r"only target\.\*, evaluation\.\*"):
        revise_evaluation(load_config(), overrides=["batch.effective=7"])
    assert (
        revise_evaluation(load_config(), "vit_small", ["target.fit.epochs=2"]).target.fit.epochs
        == 2
    )


def test_weights_from_scratch_are_the_seeds() -> None:
    one, same, other = (next(target(seed=seed).parameters()) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_fine_tuning_starts_from_the_file_and_learns_everything(tmp_path: Path) -> None:
    body = timm.create_model("resnet18", in_chans=1, num_classes=0, **NARROW)
    path = tmp_path / "body.safetensors"
    save_file(body.state_dict(), path)
    model = target(f"file:{path}")
    assert isinstance(model, WithLinearHead)
    loaded = model.body.net.state_dict()  # type: ignore[union-attr]
    assert torch.equal(loaded["layer4.1.conv2.weight"], body.state_dict()["layer4.1.conv2.weight"])
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(UserError, match="does not contain resnet34's weights"):
        target(f"file:{path}", model="resnet34")


def test_simclr_encoder_learns_from_the_arms_images_and_then_stays_frozen() -> None:
    model = target("simclr")
    assert isinstance(model, WithLinearHead)
    start = target("scratch").net.state_dict()  # type: ignore[union-attr]
    before = {name: value.clone() for name, value in model.body.state_dict().items()}
    assert not torch.equal(before["net.layer1.0.conv1.weight"], start["layer1.0.conv1.weight"])
    recipe = TargetConfig().fit.model_copy(update={"epochs": 2, "batch": 8})
    head = model.head.weight.clone()
    labels = np.arange(24) % 3
    train_classifier(model, images(), labels, TrainingSettings(recipe, AugmentConfig(), 0, CPU))
    after = model.body.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not torch.equal(head, model.head.weight)
    assert not model.train().body.training
    assert model.head.training
