"""Networks as built: normalised, with a stem for the size and channels of their images."""

from typing import Any

import pytest
import timm
import torch
from torch import nn

from bigbatch_ue.networks.backbone import create_network
from bigbatch_ue.networks.spec import NetworkSpec
from bigbatch_ue.runtime.errors import UserError
from tests.helpers.networks import built, convolution


def test_input_is_normalised_and_keys_are_timms() -> None:
    model = built(channels=3).eval()
    own = timm.create_model("resnet18", num_classes=0)
    assert model.net.state_dict().keys() == own.state_dict().keys()
    assert {key.partition(".")[0] for key in model.state_dict()} == {"net"}
    images = torch.rand(2, 3, 8, 8)
    mean, std = (torch.tensor(own.pretrained_cfg[k]).view(3, 1, 1) for k in ("mean", "std"))
    with torch.no_grad():
        assert torch.allclose(model(images), model.net((images - mean) / std), atol=1e-6)
        assert model(images).shape == (2, 512)


def test_grey_images_take_mean_normalisation_and_one_channel() -> None:
    model = built(channels=1, classes=7)
    assert convolution(model).in_channels == 1
    assert model.mean.shape == (1, 1, 1, 1)
    assert float(model.mean) == pytest.approx((0.485 + 0.456 + 0.406) / 3)
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 7)


@pytest.mark.parametrize(
    ("stem", "size", "small"),
    [
        ("auto", 63, True),
        ("auto", 64, False),
        ("small", 64, True),
        ("standard", 32, False),
    ],
)
def test_small_images_keep_their_resolution(stem: str, size: int, small: bool) -> None:
    model = built(stem=stem, size=size)
    expected = ((3, 3), (1, 1), (1, 1)) if small else ((7, 7), (2, 2), (3, 3))
    first = convolution(model)
    assert (first.kernel_size, first.stride, first.padding) == expected
    assert isinstance(model.net.maxpool, nn.Identity) == small


@pytest.mark.parametrize(
    ("name", "first", "pool", "kernel"),
    [
        ("test_resnet", "conv1.0", "maxpool", 3),
        ("densenet121", "features.conv0", "features.pool0", 3),
        ("efficientnet_b0", "conv_stem", None, 3),
        ("repvgg_a0", "stem.conv_1x1.conv", None, 1),
        ("resnetv2_50", "stem.conv", "stem.pool", 3),
    ],
)
def test_small_stem_of_other_families(name: str, first: str, pool: str | None, kernel: int) -> None:
    model = built(name, size=32)
    assert convolution(model, first).stride == (1, 1)
    assert convolution(model, first).kernel_size == (kernel, kernel)
    assert pool is None or isinstance(model.net.get_submodule(pool), nn.Identity)


@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_patch_embedding_is_left_alone(name: str) -> None:
    args = {"img_size": 32, "patch_size": 8} if name == "test_vit" else {}
    model = built(name, size=32, stem="small", args=args)
    own = timm.create_model(name, in_chans=1, **args)
    first = own.pretrained_cfg["first_conv"]
    assert str(convolution(model, first)) == str(own.get_submodule(first))


def test_unknown_model_is_an_error_with_close_names() -> None:
    with pytest.raises(
        UserError, match=r"model 'resnet81': timm has no such model; did you mean .*resnet18"
    ):
        built("resnet81")


@pytest.mark.parametrize("args", [{"chanels": [4, 8]}, {"channels": "wide"}, {"in_chans": 4}])
def test_arguments_that_do_not_fit_are_an_error(args: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="resnet18: timm cannot build it with args"):
        built(args=args)


def test_a_number_of_layers_that_nobody_can_build_is_refused_at_once() -> None:
    with pytest.raises(UserError, match=r"resnet18: args\.layers is .*; use at most 65,536"):
        built(args={"layers": [1, 10**18, 1, 1]})


def test_vision_transformer_is_made_for_the_images_size() -> None:
    small = built("vit_tiny_patch16_224", size=32, args={"depth": 1})
    assert convolution(small, "patch_embed.proj").kernel_size == (4, 4)
    large = built("vit_tiny_patch16_224", size=96, args={"depth": 1})
    assert convolution(large, "patch_embed.proj").kernel_size == (16, 16)
    own = built("vit_tiny_patch16_224", size=32, args={"depth": 1, "patch_size": 8})
    assert convolution(own, "patch_embed.proj").kernel_size == (8, 8)


def test_size_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(UserError, match=r"does not take images of 32 pixels .*img_size"):
        built("vit_tiny_patch16_224", size=32, args={"depth": 1, "img_size": 64})


@pytest.mark.parametrize("name", ["hf-hub:user/model", "local-dir:elsewhere"])
def test_only_pretrained_networks_come_from_a_hub(name: str) -> None:
    with pytest.raises(UserError, match="needs weights=pretrained"):
        create_network(NetworkSpec(name, 3, 8), 0)
