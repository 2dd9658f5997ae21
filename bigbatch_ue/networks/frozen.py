"""The frozen network made fast: folded, channels last, bfloat16, compiled; equal up to rounding."""

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.fx import GraphModule, Node, Tracer
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.checkpoint import checkpoint

from bigbatch_ue.config.sections import ComputeConfig
from bigbatch_ue.networks.backbone import first_line
from bigbatch_ue.runtime.device import has_bf16


@dataclass(frozen=True)
class ComputeMode:
    """The arithmetic and memory layout of a frozen network on a device.

    Attributes:
        precision: precision of the layers, `float32` or `bf16`; inputs and outputs are float32.
        fold: whether batch norm is folded into the convolution before it, and a strided convolution
            of the image is computed over its 2 x 2 blocks.
        channels_last: memory layout.
        compiled: mode of torch.compile: `off`, `on`, or `graphs` with CUDA graphs.
        tf32: whether a GPU multiplies what stays float32, including the generators, as TF32.
        checkpointing: whether activations are recomputed in the backward pass instead of kept.
    """

    precision: str
    fold: bool
    channels_last: bool
    compiled: str
    tf32: bool
    checkpointing: bool


def compute_mode(settings: ComputeConfig, device: torch.device) -> ComputeMode:
    """Resolve the `auto` settings for `device`: bfloat16 and compilation where they are faster."""
    on_gpu = device.type == "cuda"
    precision = settings.precision
    if precision == "auto":
        precision = "bf16" if has_bf16(device) else "float32"
    compiled = settings.compile
    if compiled == "auto":
        compiled = "on" if on_gpu else "off"
    return ComputeMode(
        precision=precision,
        fold=settings.fold,
        channels_last=settings.channels_last,
        compiled=compiled,
        tf32=settings.tf32 and on_gpu,
        checkpointing=settings.checkpointing,
    )


def allow_tf32(mode: ComputeMode) -> None:
    """Let this process's GPU multiply float32 as TF32, or forbid it."""
    torch.backends.cuda.matmul.allow_tf32 = mode.tf32
    torch.backends.cudnn.allow_tf32 = mode.tf32


class FrozenNetwork(nn.Module):
    """A network in evaluation mode and without gradients of its own, computed in a given mode.

    Args:
        net: maps float [M, C, H, W] to features [M, d]; it is copied.
        mode: from `compute_mode`.
    """

    def __init__(self, net: nn.Module, mode: ComputeMode) -> None:
        super().__init__()
        net = copy.deepcopy(net).eval().requires_grad_(False)
        if mode.fold:
            net = convolve_in_blocks(fold(net))
        if mode.channels_last:
            net = net.to(memory_format=torch.channels_last)
        if mode.precision == "bf16":
            _round_weights(net)
        self.net, self.mode = net, mode
        self._forward: Any = _compile(net, mode.compiled)

    def forward(self, images: Tensor) -> Tensor:
        """Map float32 images [M, C, H, W] in [0, 1] to float32 features [M, d]."""
        mode = self.mode
        if mode.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=mode.precision == "bf16"):
            if mode.checkpointing and torch.is_grad_enabled():
                output = checkpoint(self._forward, images, use_reentrant=False)
            else:
                output = self._forward(images)
        features: Tensor = output.float()
        return features


def _round_weights(net: nn.Module) -> None:
    """Round to bfloat16, once, the weights that autocast would round in every pass."""
    for module in net.modules():
        if type(module) in (nn.Conv2d, nn.Linear):
            module.to(torch.bfloat16)


def _compile(net: nn.Module, mode: str) -> Any:
    # Micro-batches have two sizes. Code for each is faster than one code for any size.
    if mode == "off":
        return net
    return torch.compile(net, dynamic=False, mode="reduce-overhead" if mode == "graphs" else None)


class _ConvolutionTracer(Tracer):
    """A tracer that looks into no convolution, such as timm's with the padding of TensorFlow."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Conv2d) or super().is_leaf_module(module, name)


def fold(net: nn.Module) -> nn.Module:
    """Fold every batch norm that follows a convolution into it (Jacob et al., 2018).

    `net` must be in evaluation mode. It is returned unchanged if torch.fx cannot trace it.
    """
    try:
        traced = GraphModule(net, _ConvolutionTracer().trace(net))
    except Exception as error:  # tracing runs the network's own code
        warnings.warn(
            f"surrogate: its batch norm is not folded, which costs memory but changes no result "
            f"({first_line(error)}); compute.fold=false silences this",
            stacklevel=2,
        )
        return net
    modules = dict(traced.named_modules())
    for node in traced.graph.nodes:
        source = node.args[0] if node.op == "call_module" and node.args else None
        norm = modules.get(str(node.target))
        if not isinstance(norm, nn.BatchNorm2d) or not isinstance(source, Node):
            continue
        conv = modules.get(str(source.target)) if source.op == "call_module" else None
        if isinstance(conv, nn.Conv2d) and len(source.users) == 1:
            fused = fuse_conv_bn_eval(conv, _without_activation(norm))
            traced.set_submodule(str(source.target), fused)
            traced.set_submodule(str(node.target), _activation(norm))
    return traced


class _BlockConvolution(nn.Module):
    """A convolution of stride 2, as one of stride 1 with the image's 2 x 2 blocks as channels.

    The kernel is padded to an even size. With few channels, the gradient is faster this way.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        kernel, padding, channels = conv.kernel_size[0], int(conv.padding[0]), conv.in_channels
        odd = kernel % 2
        self.before, self.kernel, self.reach = padding + odd, kernel + odd, kernel - 2 * padding
        blocks = self.kernel // 2
        weight = F.pad(conv.weight.detach(), (odd, 0, odd, 0))
        weight = weight.reshape(-1, channels, blocks, 2, blocks, 2).permute(0, 1, 3, 5, 2, 4)
        self.conv = nn.Conv2d(4 * channels, conv.out_channels, blocks, bias=conv.bias is not None)
        self.conv.weight = nn.Parameter(weight.flatten(1, 3).contiguous(), requires_grad=False)
        if conv.bias is not None:
            self.conv.bias = nn.Parameter(conv.bias.detach(), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        margins: list[int] = []
        for size in (images.shape[3], images.shape[2]):
            needed = (size - self.reach) // 2 * 2 + self.kernel
            margins += [self.before, needed - self.before - size]
        blocks = F.pixel_unshuffle(F.pad(images, margins), 2)
        if images.is_contiguous(memory_format=torch.channels_last):
            blocks = blocks.contiguous(memory_format=torch.channels_last)
        features: Tensor = self.conv(blocks)
        return features


def convolve_in_blocks(net: nn.Module) -> nn.Module:
    """Compute strided convolutions of images (at most 4 channels) over 2 x 2 blocks; in place."""
    for name, module in list(net.named_modules()):
        if type(module) is nn.Conv2d and module.in_channels <= 4 and _is_plainly_strided(module):
            net.set_submodule(name, _BlockConvolution(module).to(module.weight.device))
    return net


def _is_plainly_strided(conv: nn.Conv2d) -> bool:
    return (
        conv.stride == (2, 2)
        and conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.padding_mode == "zeros"
        and isinstance(conv.padding, tuple)
        and len({*conv.padding}) == len({*conv.kernel_size}) == 1
        and conv.kernel_size[0] > 2
    )


def _without_activation(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """Return the plain batch norm of timm's batch norm with an activation."""
    plain = nn.BatchNorm2d(norm.num_features, norm.eps, affine=norm.affine)
    plain.load_state_dict(norm.state_dict(), assign=True)  # on the device of the net
    return plain.eval()


def _activation(norm: nn.BatchNorm2d) -> nn.Module:
    """Return the rest of a batch norm whose affine map has been folded away."""
    if isinstance(norm, BatchNormAct2d):
        return nn.Sequential(norm.drop, norm.act)
    return nn.Identity()
