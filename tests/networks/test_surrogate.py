"""The surrogate: frozen, and with the weights that the configuration names."""

from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from bigbatch_ue.config.sections import ComputeConfig, TrainingRecipe
from bigbatch_ue.data.decoded import DataSet, ImageSet
from bigbatch_ue.data.decoding import resize
from bigbatch_ue.files.tensor_files import read_tensors
from bigbatch_ue.networks import backbone, surrogate
from bigbatch_ue.networks.frozen import FrozenNetwork, compute_mode
from bigbatch_ue.networks.inference import to_float
from bigbatch_ue.networks.surrogate import extract_features
from bigbatch_ue.runs.identity import DataIdentity
from bigbatch_ue.runtime.errors import UserError
from tests.helpers.forked import Program
from tests.helpers.networks import CPU, NARROW, built, convolution, same_state
from tests.helpers.surrogates import digits, prepared


def same(one: nn.Module, other: nn.Module) -> bool:
    return same_state(one.state_dict(), other.state_dict())


def test_invariant_2_surrogate_is_frozen_and_really_loaded(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    torch.manual_seed(9)
    state = built(args=NARROW).net.state_dict()
    save_file(state, path)
    model = prepared(f"file:{path}", tmp_path)
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert same_state(model.net.state_dict(), state)

    images = torch.rand(4, 1, 8, 8, requires_grad=True)
    model(images).sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.parameters())
    assert same_state(model.net.state_dict(), state)


def test_hub_out_of_reach_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        UserError, match=r"resnet18: cannot download pretrained weights .*file:PATH"
    ):
        prepared("pretrained", tmp_path, args={})


def test_pretrained_kernel_is_kept_for_small_images(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    published = timm.create_model("resnet18", in_chans=1, num_classes=0)
    monkeypatch.setattr(backbone, "_download_pretrained", lambda *_: published)
    model = prepared("pretrained", tmp_path, args={})
    first = convolution(model)
    assert (first.kernel_size, first.stride) == ((7, 7), (1, 1))
    assert isinstance(model.net.maxpool, nn.Identity)


def test_random_surrogate_depends_on_the_seed_only(tmp_path: Path) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = prepared("random", tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(one, prepared("random", tmp_path))
    assert not same(one, prepared("random", tmp_path, seed=1))


def test_trained_surrogate_is_kept_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = prepared("fit", tmp_path)
    (file,) = tmp_path.glob("surrogate-*.safetensors")
    message = capsys.readouterr().err
    assert f"surrogate resnet18: 105 trained tensors from {file}; accuracy " in message
    assert "on test images" in message
    stored = read_tensors(file)[0]
    loaded = one.net.state_dict()
    assert all(torch.equal(loaded[key], stored[key]) for key in loaded)
    assert not same(one, prepared("random", tmp_path))
    monkeypatch.setattr(surrogate, "train_classifier", None)
    assert same(one, prepared("fit", tmp_path))


def test_trained_surrogate_depends_on_the_seed_only(tmp_path: Path) -> None:
    torch.manual_seed(1)
    one = prepared("fit", tmp_path / "here")
    torch.manual_seed(2)
    assert same(one, prepared("fit", tmp_path / "there"))


def test_file_of_a_trained_surrogate_is_named_after_seed_data_and_recipe(tmp_path: Path) -> None:
    other = replace(digits(), identity=DataIdentity("digits", "0" * 12))
    prepared("fit", tmp_path)
    prepared("fit", tmp_path, seed=1)
    prepared("fit", tmp_path, data=other)
    prepared("fit", tmp_path, fit=TrainingRecipe(epochs=1, batch=40))
    assert len(list(tmp_path.glob("surrogate-*.safetensors"))) == 4


def test_a_single_class_is_learned_by_simclr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = prepared("fit", tmp_path, data=digits(classes=1))
    assert "SimCLR loss" in capsys.readouterr().err
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 32)


def test_other_ranks_print_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    model = prepared("fit", tmp_path)
    extract_features(model, digits().train.images, CPU)
    assert capsys.readouterr() == ("", "")


TRAIN_ONCE = """
import sys
from dataclasses import replace
from pathlib import Path
from bigbatch_ue.networks import surrogate
from tests.helpers.surrogates import prepared

train = surrogate.train_classifier
def counted(*args, **named):
    with open(sys.argv[1] + "/trained", "a") as file:
        file.write("x")
    return train(*args, **named)
surrogate.train_classifier = counted
prepared("fit", Path(sys.argv[1]))
"""


def test_of_two_processes_one_trains(tmp_path: Path) -> None:
    script = tmp_path / "train_once.py"
    script.write_text(TRAIN_ONCE)
    processes = [Program([str(script), str(tmp_path)], {"RANK": str(rank)}) for rank in range(2)]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert (tmp_path / "trained").read_text() == "x"


@pytest.mark.parametrize("batch", [7, 256])
def test_features_are_in_the_images_order(tmp_path: Path, batch: int) -> None:
    model, images = prepared("random", tmp_path), digits().train.images[:20]
    features = extract_features(model, images, CPU, batch)
    assert features.shape == (20, 32)
    assert features.dtype == torch.float32
    assert not features.requires_grad
    with torch.no_grad():
        one = model(to_float(torch.from_numpy(images[13:14])))
    assert torch.allclose(features[13:14], one, atol=1e-5)


def test_an_imagenet_network_tells_photographs_apart_only_at_its_own_size(tmp_path: Path) -> None:
    from sklearn.datasets import load_sample_images

    photographs = np.stack([image[:400, 100:500] for image in load_sample_images().images])
    tiles = photographs.reshape(2, 4, 100, 4, 100, 3).swapaxes(2, 3).reshape(32, 100, 100, 3)
    small = np.stack([resize(tile.transpose(2, 0, 1), 64) for tile in tiles])
    labels = np.repeat(np.arange(2), 16)
    images = ImageSet(small, labels, [str(index) for index in range(32)], np.arange(32))
    identity = DataIdentity("photographs", "f" * 12)
    data = DataSet("photographs", identity, ["temple", "flower"], images, images, available=32)
    separation = {}
    for size in ("data", "own"):
        model = prepared(
            "package", tmp_path, data=data, model="tf_efficientnet_lite0", args={}, size=size
        )
        features = extract_features(model, small, CPU)
        between = torch.cdist(features, features)
        same_label = torch.from_numpy(labels[:, None] == labels[None])
        separation[size] = float(between[~same_label].mean() / between[same_label].mean())
    assert separation["own"] > separation["data"] > 1


@pytest.mark.parametrize("size", [12, 5 + 16])
def test_the_surrogate_sees_images_at_its_size_and_gradients_reach_the_pixels(
    size: int, tmp_path: Path
) -> None:
    model = prepared("random", tmp_path, size=size)
    seen: list[torch.Size] = []
    model.net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    images = torch.rand(2, 1, 8, 8, requires_grad=True)
    model(images).sum().backward()
    assert seen == [torch.Size([2, 1, size, size])]
    assert images.grad is not None
    assert (images.grad != 0).float().mean() > 0.9
    frozen = FrozenNetwork(model, compute_mode(ComputeConfig(precision="float32"), CPU))
    torch.testing.assert_close(frozen(images), model(images), rtol=1e-4, atol=1e-5)
