"""The sizes that are counted without torch are those of the real networks."""

from typing import Any

import pytest
import torch

from bigbatch_ue.config.load import load_config
from bigbatch_ue.config.names import PRESETS
from bigbatch_ue.networks.backbone import build_network
from bigbatch_ue.networks.generator import ResNetGenerator
from bigbatch_ue.networks.sizes import generator_size, resnet_size
from bigbatch_ue.networks.spec import NetworkSpec, surrogate_spec
from bigbatch_ue.training.requirements import measure_size


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"])
@pytest.mark.parametrize(
    ("channels", "size", "options"),
    [
        (3, 224, {}),
        (3, 65, {}),
        (1, 28, {"stem": "standard"}),
        (3, 97, {"stem": "small"}),
        (1, 28, {"sees": 50}),
        (3, 33, {"args": {"layers": [1, 3, 1, 2], "channels": [256, 32, 32, 8]}}),
        (1, 16, {"args": {"channels": [64, 64, 128, 128]}}),
    ],
)
def test_a_resnet_is_counted_as_it_is_built(
    name: str, channels: int, size: int, options: dict[str, Any]
) -> None:
    spec = NetworkSpec(name, channels, size, **options)
    with torch.device("meta"):
        built = build_network(spec, 0).eval()
        image = torch.empty(1, channels, size, size)
    assert resnet_size(spec) == measure_size(built, image)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("resnet26", {}),
        ("resnet50.a1_in1k", {}),
        ("resnet18", {"layers": [1, 1]}),
        ("resnet18", {"channels": [8, 8, 8, "8"]}),
        ("resnet18", {"drop_rate": 0.1}),
    ],
)
def test_other_networks_are_not_guessed(name: str, args: dict[str, Any]) -> None:
    assert resnet_size(NetworkSpec(name, 3, 32, args)) is None


@pytest.mark.parametrize("preset", PRESETS)
def test_the_surrogate_of_every_preset_is_counted(preset: str) -> None:
    config = load_config(preset)
    assert resnet_size(surrogate_spec(config.surrogate, 3, config.data.size)) is not None


@pytest.mark.parametrize(
    ("channels", "width", "size"), [(3, 64, 224), (1, 4, 8), (3, 5, 9), (1, 6, 30), (3, 3, 35)]
)
def test_a_generator_is_counted_as_it_is_built(channels: int, width: int, size: int) -> None:
    with torch.device("meta"):
        built, image = ResNetGenerator(channels, width), torch.empty(1, channels, size, size)
    assert generator_size(channels, width, size) == measure_size(built, image)
