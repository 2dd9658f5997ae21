"""Networks as built, and the surrogate: frozen, and with the weights that the config names."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bigbatch_ue.config.sections import TrainingRecipe
from bigbatch_ue.data.decoded import DataSet
from bigbatch_ue.files.tensor_files import read_tensors
from bigbatch_ue.networks import backbone, surrogate
from bigbatch_ue.networks import classifier as fit
from bigbatch_ue.networks.backbone import NetworkSpec, Normalised, build_network
from bigbatch_ue.networks.surrogate import extract_features
from bigbatch_ue.runtime.errors import UserError
from tests.helpers.surrogates import ARGS, CPU, digits, prepared


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def built(name: str = "resnet18", **more: Any) -> Normalised:
    kind = {"classes": more.pop("classes", 0), "pretrained": more.pop("pretrained", False)}
    return build_network(NetworkSpec(name, **{"channels": 1, "size": 8, **more}), **kind)


def convolution(model: Normalised, name: str = "conv1") -> nn.Conv2d:
    found = model.net.get_submodule(name)
    assert isinstance(found, nn.Conv2d)
    return found


def weights_of(**more: Any) -> dict[str, Tensor]:
    torch.manual_seed(9)
    return {**built(args=ARGS, **more).net.state_dict()}


def same(one: nn.Module, other: nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return all(torch.equal(states[0][key], states[1][key]) for key in states[0] | states[1])


# -- building ------------------------------------------------------------------------------------


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
    with pytest.raises(UserError, match=r"unknown model 'resnet81'; did you mean .*resnet18"):
        built("resnet81")


@pytest.mark.parametrize("args", [{"chanels": [4, 8]}, {"channels": "wide"}, {"in_chans": 4}])
def test_arguments_that_do_not_fit_are_an_error(args: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="cannot build resnet18 with args"):
        built(args=args)


def test_vision_transformer_is_made_for_the_images_size() -> None:
    small = built("vit_tiny_patch16_224", size=32, args={"depth": 1})
    assert convolution(small, "patch_embed.proj").kernel_size == (4, 4)
    large = built("vit_tiny_patch16_224", size=96, args={"depth": 1})
    assert convolution(large, "patch_embed.proj").kernel_size == (16, 16)
    own = built("vit_tiny_patch16_224", size=32, args={"depth": 1, "patch_size": 8})
    assert convolution(own, "patch_embed.proj").kernel_size == (8, 8)


def test_size_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(UserError, match=r"does not take 32 pixel images .*img_size"):
        built("vit_tiny_patch16_224", size=32, args={"depth": 1, "img_size": 64})


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


# -- the frozen surrogate ------------------------------------------------------------------------


def test_invariant_2_surrogate_is_frozen_and_really_loaded(tmp_path: Path) -> None:
    path, state = tmp_path / "weights.safetensors", weights_of(classes=10)
    state["bn1.running_mean"] = torch.rand(64)
    save_file(state, path)
    model = prepared(f"file:{path}", tmp_path)
    loaded = model.net.state_dict()
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert state.keys() - loaded.keys() == {"fc.weight", "fc.bias"}
    assert all(torch.equal(loaded[key], state[key]) for key in loaded)

    images = torch.rand(4, 1, 8, 8, requires_grad=True)
    model(images).sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(model.net.state_dict()[key], state[key]) for key in loaded)

    few = {key: value for key, value in state.items() if key.startswith("layer1")}
    save_file(few, path)
    with pytest.raises(UserError, match=r"of 105 tensors \d+ missing \(bn1.bias, "):
        prepared(f"file:{path}", tmp_path)
    save_file({f"visual.{key}": value for key, value in state.items()}, path)
    with pytest.raises(UserError, match=r"105 missing .*unknown \(visual"):
        prepared(f"file:{path}", tmp_path)


def test_larger_relative_of_the_model_is_an_error(tmp_path: Path) -> None:
    torch.save(built("resnet34", args=ARGS).net.state_dict(), tmp_path / "r34.pt")
    with pytest.raises(UserError, match=r"unknown \(layer1\.2\.bn1"):
        prepared(f"file:{tmp_path}/r34.pt", tmp_path)


def test_tensor_of_another_shape_is_an_error(tmp_path: Path) -> None:
    state = weights_of()
    state["layer4.0.conv1.weight"] = torch.zeros(1)
    save_file(state, tmp_path / "odd.safetensors")
    with pytest.raises(UserError, match=r"1 of another shape \(layer4\.0\.conv1\.weight\)"):
        prepared(f"file:{tmp_path}/odd.safetensors", tmp_path)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {f"module.{key}": value for key, value in state.items()}},
        lambda state: {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
    ],
)
def test_saved_state_dicts_are_found_inside(
    wrap: Callable[[dict[str, Tensor]], Any], tmp_path: Path
) -> None:
    state = weights_of()
    torch.save(wrap(state), tmp_path / "weights.pt")
    loaded = prepared(f"file:{tmp_path}/weights.pt", tmp_path).net.state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in loaded)


def test_colour_file_serves_grey_images_with_its_own_kernel(tmp_path: Path) -> None:
    """As torchvision's ResNet files: 7 x 7, three channels, a classifier."""
    published = timm.create_model("resnet18", **ARGS)
    torch.save(published.state_dict(), tmp_path / "published.pth")
    model = prepared(f"file:{tmp_path}/published.pth", tmp_path)
    first = convolution(model)
    assert (first.kernel_size, first.stride) == ((7, 7), (1, 1))
    assert torch.allclose(first.weight, published.conv1.weight.sum(1, keepdim=True))


class Attack:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("save", [torch.save, lambda it, p: p.write_bytes(pickle.dumps(it, 2))])
def test_pickled_code_is_not_run(save: Callable[[Any, Path], Any], tmp_path: Path) -> None:
    save({"state_dict": Attack(tmp_path / "ran")}, tmp_path / "weights.pt")
    with pytest.raises(UserError, match="holds more than tensors"):
        prepared(f"file:{tmp_path}/weights.pt", tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.pt", None, "none.pt: no such file"),
        ("none.safetensors", None, "none.safetensors: no such file"),
        ("junk.pt", b"junk", "junk.pt: not loaded as a state dict"),
        ("empty.pt", b"", "empty.pt: not loaded as a state dict"),
        ("junk.safetensors", b"junk" * 9, "not a readable safetensors file"),
    ],
)
def test_file_that_is_none_is_an_error(
    name: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        prepared(f"file:{tmp_path}/{name}", tmp_path)


def test_file_of_something_else_is_an_error(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    with pytest.raises(UserError, match="no state dict but a Tensor"):
        prepared(f"file:{tmp_path}/tensor.pt", tmp_path)


def test_random_surrogate_depends_on_the_seed_only(tmp_path: Path) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = prepared("random", tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(one, prepared("random", tmp_path))
    assert not same(one, prepared("random", tmp_path, seed=1))


def test_fitted_surrogate_is_kept_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = prepared("fit", tmp_path)
    (file,) = tmp_path.glob("surrogate-*.safetensors")
    said = capsys.readouterr().err
    assert f"surrogate resnet18: 105 fitted tensors from {file}; accuracy " in said
    assert "on test images" in said
    stored = read_tensors(file)[0]
    loaded = one.net.state_dict()
    assert all(torch.equal(loaded[key], stored[key]) for key in loaded)
    assert not same(one, prepared("random", tmp_path))
    monkeypatch.setattr(surrogate, "train_classifier", None)
    assert same(one, prepared("fit", tmp_path))


def test_fitted_surrogate_is_the_same_anywhere(tmp_path: Path) -> None:
    torch.manual_seed(1)
    one = prepared("fit", tmp_path / "here")
    torch.manual_seed(2)
    assert same(one, prepared("fit", tmp_path / "there"))


def test_what_decides_the_fit_names_its_file(tmp_path: Path) -> None:
    other = DataSet(**{**vars(digits()), "fingerprint": "0" * 12})
    prepared("fit", tmp_path)
    prepared("fit", tmp_path, seed=1)
    prepared("fit", tmp_path, data=other)
    prepared("fit", tmp_path, fit=TrainingRecipe(epochs=1, batch=40))
    assert len(list(tmp_path.glob("surrogate-*.safetensors"))) == 4


def test_single_class_is_fitted_by_simclr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = prepared("fit", tmp_path, data=digits(classes=1))
    assert "SimCLR loss" in capsys.readouterr().err
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 32)


def test_other_ranks_say_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    model = prepared("fit", tmp_path)
    extract_features(model, digits().train.images, CPU)
    assert capsys.readouterr() == ("", "")


FIT_ONCE = """
import sys
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


def test_of_two_processes_one_fits(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", FIT_ONCE, str(tmp_path)],
            env={**os.environ, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
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
        one = model(fit.to_float(torch.from_numpy(images[13:14])))
    assert torch.allclose(features[13:14], one, atol=1e-5)
