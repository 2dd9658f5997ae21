"""The frozen surrogate at speed: its gradient does not depend on how it is computed."""

import pytest
import torch
from torch import Tensor, nn

from bigbatch_ue.config.load import load_config
from bigbatch_ue.config.sections import ComputeConfig
from bigbatch_ue.data.decoded import DataSet, prepare_dataset
from bigbatch_ue.networks.backbone import build_network
from bigbatch_ue.networks.frozen import (
    ComputeMode,
    FrozenNetwork,
    compute_mode,
    convolve_in_blocks,
    fold,
)
from bigbatch_ue.networks.inference import to_float
from bigbatch_ue.networks.spec import NetworkSpec
from bigbatch_ue.networks.surrogate import surrogate_of_run
from bigbatch_ue.training.objective import distance

CPU = torch.device("cpu")
PLAIN = ComputeConfig(precision="float32", fold=False, channels_last=False, compile="off")
SMALL = (
    "data.size=16",
    "surrogate.args={channels: [8, 16, 32, 64]}",
    "surrogate.fit.epochs=4",
)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, DataSet]:
    """A surrogate trained on real digits, and these."""
    place = f"data.root={tmp_path_factory.mktemp('frozen')}"
    config = load_config("digits", overrides=[*SMALL, place])
    data = prepare_dataset(config.data)
    return surrogate_of_run(config, data, CPU), data


def delta_gradient(net: nn.Module, data: DataSet) -> Tensor:
    """Gradient of the real objective in perturbations [3, C, H, W] of 96 images."""
    config = load_config("digits").objective
    images = to_float(torch.from_numpy(data.train.images[:96].copy()))
    row = torch.arange(96) % 3
    generator = torch.Generator().manual_seed(0)
    delta = (torch.rand(3, *images.shape[1:], generator=generator) - 0.5) / 8
    delta.requires_grad_()
    with torch.no_grad():
        targets = net(images[:3])
    features = net((images + delta[row]).clamp(0, 1))
    distance(features, row, targets.float(), config).mean().backward()
    assert delta.grad is not None
    return delta.grad


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize(
    "changed",
    [
        {"fold": True},
        {"channels_last": True},
        {"checkpointing": True},
        {"fold": True, "channels_last": True, "checkpointing": True},
    ],
)
def test_folding_layout_and_checkpointing_leave_the_gradient(
    changed: dict[str, bool], digits: tuple[nn.Module, DataSet]
) -> None:
    net, data = digits
    fast = FrozenNetwork(net, compute_mode(PLAIN.model_copy(update=changed), CPU))
    assert difference(delta_gradient(fast, data), delta_gradient(net, data)) < 1e-5


def test_checkpointing_is_bit_equal(digits: tuple[nn.Module, DataSet]) -> None:
    net, data = digits
    modes = [
        compute_mode(PLAIN.model_copy(update={"checkpointing": on}), CPU) for on in (False, True)
    ]
    kept, recomputed = (delta_gradient(FrozenNetwork(net, mode), data) for mode in modes)
    assert torch.equal(kept, recomputed)


def test_bf16_keeps_the_direction_of_the_gradient(digits: tuple[nn.Module, DataSet]) -> None:
    net, data = digits
    fast = FrozenNetwork(net, compute_mode(ComputeConfig(precision="bf16", compile="off"), CPU))
    gradient, exact = delta_gradient(fast, data), delta_gradient(net, data)
    assert gradient.dtype == torch.float32
    cosine = torch.cosine_similarity(gradient.flatten(), exact.flatten(), dim=0)
    assert 0.99 <= cosine < 1 - 1e-7


def test_features_are_float32_whatever_computes_them(digits: tuple[nn.Module, DataSet]) -> None:
    net, data = digits
    images = to_float(torch.from_numpy(data.train.images[:4].copy()))
    assert (
        FrozenNetwork(net, compute_mode(ComputeConfig(precision="bf16"), CPU))(images).dtype
        == torch.float32
    )


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("resnet18", {"channels": [8, 8, 16, 16]}),
        ("resnet50", {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}),
        ("efficientnet_b0", {}),
        ("tf_efficientnet_lite0", {}),
        ("densenet121", {"block_config": [1, 1, 1, 1]}),
    ],
)
def test_every_batch_norm_after_a_convolution_is_folded(name: str, args: dict[str, object]) -> None:
    torch.manual_seed(0)
    net = build_network(NetworkSpec(name, 3, 32, args), 0)
    with torch.no_grad():
        for _ in range(3):
            net.train()(torch.rand(8, 3, 32, 32))
    net.eval().requires_grad_(False)
    folded = fold(net)
    images = torch.rand(5, 3, 32, 32)
    torch.testing.assert_close(folded(images), net(images), rtol=1e-4, atol=1e-5)
    left = sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert left < sum(isinstance(module, nn.BatchNorm2d) for module in net.modules()) / 2


@pytest.mark.parametrize(("kernel", "padding"), [(7, 3), (3, 1), (3, 0), (4, 1), (6, 2)])
@pytest.mark.parametrize("shape", [(32, 32), (15, 18), (9, 11)])
def test_a_strided_convolution_of_images_is_one_over_blocks(
    kernel: int, padding: int, shape: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 5, kernel, stride=2, padding=padding, bias=kernel % 2 == 0)
    net = nn.Sequential(conv, nn.Conv2d(5, 4, 3, stride=2)).requires_grad_(False)
    images = torch.rand(2, 3, *shape, requires_grad=True)
    expected = net[:1](images)
    blocks = convolve_in_blocks(net)
    assert type(blocks[0]) is not nn.Conv2d
    assert type(blocks[1]) is nn.Conv2d
    output = blocks[:1](images)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
    wanted = torch.rand_like(expected)
    gradients = [torch.autograd.grad(y, images, wanted)[0] for y in (output, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


def test_other_convolutions_are_left_alone() -> None:
    for conv in (
        nn.Conv2d(3, 6, 3, padding=1),
        nn.Conv2d(3, 6, 2, stride=2),
        nn.Conv2d(8, 6, 3, stride=2),
        nn.Conv2d(3, 6, 3, stride=2, groups=3),
        nn.Conv2d(3, 6, 3, stride=2, padding=1, padding_mode="reflect"),
    ):
        net = nn.Sequential(conv)
        assert convolve_in_blocks(net)[0] is conv


def test_a_network_that_cannot_be_traced_is_left_as_it_is() -> None:
    class Branching(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images if images.sum() > 0 else -images

    net = Branching()
    with pytest.warns(
        UserWarning, match=r"batch norm is not folded, which costs memory.*compute\.fold=false"
    ):
        assert fold(net) is net


def test_the_given_network_is_not_changed(digits: tuple[nn.Module, DataSet]) -> None:
    net, _ = digits
    before = {name: value.clone() for name, value in net.state_dict().items()}
    FrozenNetwork(net, compute_mode(ComputeConfig(precision="bf16"), CPU))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_defaults_suit_the_device() -> None:
    on_gpu, on_cpu = (compute_mode(ComputeConfig(), torch.device(kind)) for kind in ("cuda", "cpu"))
    assert (on_cpu.compiled, on_gpu.compiled) == ("off", "on")
    assert (on_cpu.tf32, on_gpu.tf32) == (False, True)
    assert on_cpu.fold
    assert on_cpu.channels_last
    assert not on_cpu.checkpointing
    assert compute_mode(PLAIN, CPU) == ComputeMode("float32", False, False, "off", False, False)


def test_compute_settings_do_not_decide_the_answer() -> None:
    changed = load_config(overrides=["compute.precision=bf16", "compute.fold=false"])
    assert changed.answer() == load_config().answer()


@pytest.mark.parametrize("model", ["resnet18", "tf_efficientnet_lite0"])
def test_folding_leaves_a_network_on_its_device(model: str) -> None:
    """The meta device stands for a GPU: torch refuses to mix its tensors with others alike."""
    net = build_network(NetworkSpec(model, 3, 32, {}), 0).eval().to("meta")
    folded = convolve_in_blocks(fold(net))
    held = [*folded.parameters(), *folded.buffers()]
    assert {tensor.device.type for tensor in held} == {"meta"}
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
