"""A frozen network made fast: folded, laid out, in bfloat16, compiled; the same up to rounding."""

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.fx import GraphModule, Node, symbolic_trace
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.checkpoint import checkpoint

from bigbatch_ue.config.sections import ComputeConfig
from bigbatch_ue.runtime.device import has_bf16


@dataclass(frozen=True)
class ComputeMode:
    """How a frozen network is computed on a device.

    Attributes:
        precision: of its layers; what goes in and comes out is float32.
        fold: batch norm is folded into the convolutions before it, and a strided convolution of the
            image is one of its 2 x 2 blocks.
        channels_last: memory layout.
        compiled: by torch.compile: `off`, `on`, or `graphs`, with CUDA graphs.
        tf32: a GPU multiplies what stays float32, the generators too, as TF32.
        checkpointing: activations are computed again in the backward pass instead of kept.
    """

    precision: str
    fold: bool
    channels_last: bool
    compiled: str
    tf32: bool
    checkpointing: bool


def compute_mode(settings: ComputeConfig, device: torch.device) -> ComputeMode:
    """What `settings` come to on `device`; `auto` is bfloat16, or compiled, where that pays."""
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


def allow_tf32(way: ComputeMode) -> None:
    """Let this process's GPU multiply float32 as TF32, or forbid it."""
    torch.backends.cuda.matmul.allow_tf32 = way.tf32
    torch.backends.cudnn.allow_tf32 = way.tf32


class FrozenNetwork(nn.Module):
    """A network in evaluation mode, without gradients of its own, computed as a plan says.

    Args:
        net: float [M, C, H, W] to features [M, d]; it is copied.
        way: as from `how`.
    """

    def __init__(self, net: nn.Module, way: ComputeMode) -> None:
        super().__init__()
        net = copy.deepcopy(net).eval().requires_grad_(False)
        if way.fold:
            net = in_pixel_blocks(fold(net))
        if way.channels_last:
            net = net.to(memory_format=torch.channels_last)
        if way.precision == "bf16":
            _round_weights(net)
        self.net, self.way = net, way
        self._call: Any = _compiled(net, way.compiled)

    def forward(self, images: Tensor) -> Tensor:
        """Float32 images [M, C, H, W] in [0, 1] to float32 features [M, d]."""
        way = self.way
        if way.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        low = way.precision == "bf16"
        with torch.autocast(images.device.type, torch.bfloat16, enabled=low):
            if way.checkpointing and torch.is_grad_enabled():
                features = checkpoint(self._call, images, use_reentrant=False)
            else:
                features = self._call(images)
        wide: Tensor = features.float()
        return wide


def _round_weights(net: nn.Module) -> None:
    """Keep in bfloat16 what autocast would round anew in every pass."""
    for module in net.modules():
        if type(module) in (nn.Conv2d, nn.Linear):
            module.to(torch.bfloat16)


def _compiled(net: nn.Module, mode: str) -> Any:
    # micro-batches have one of two sizes: each is compiled for itself, which is faster than both
    if mode == "off":
        return net
    return torch.compile(net, dynamic=False, mode="reduce-overhead" if mode == "graphs" else None)


def fold(net: nn.Module) -> nn.Module:
    """`net` with every batch norm that follows a convolution folded into it (Jacob et al., 2018).

    The network must be in evaluation mode. One that torch.fx cannot trace is returned as it is.
    """
    try:
        traced = symbolic_trace(net)
    except Exception as error:  # tracing runs the network's own code on stand-ins
        warnings.warn(f"batch norm is not folded: {error}", stacklevel=2)
        return net
    modules = dict(traced.named_modules())
    for node in traced.graph.nodes:
        source = node.args[0] if node.op == "call_module" and node.args else None
        norm = modules.get(str(node.target))
        if not isinstance(norm, nn.BatchNorm2d) or not isinstance(source, Node):
            continue
        before = modules.get(str(source.target)) if source.op == "call_module" else None
        if isinstance(before, nn.Conv2d) and len(source.users) == 1:
            _replace(traced, str(source.target), fuse_conv_bn_eval(before, _plain(norm)))
            _replace(traced, str(node.target), _rest(norm))
    return traced


class _OfBlocks(nn.Module):
    """A convolution of stride 2 as one of stride 1 over the image's 2 x 2 blocks as channels.

    The kernel is padded to an even size. With few channels this is the faster way to the gradient.
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


def in_pixel_blocks(net: nn.Module) -> nn.Module:
    """`net` with its strided convolutions of images (at most 4 channels) over 2 x 2 blocks."""
    for name, module in list(net.named_modules()):
        if type(module) is nn.Conv2d and module.in_channels <= 4 and _is_plainly_strided(module):
            net.set_submodule(name, _OfBlocks(module).to(module.weight.device))
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


def _plain(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """Only the batch norm of timm's batch norm with an activation."""
    plain = nn.BatchNorm2d(norm.num_features, norm.eps, affine=norm.affine)
    plain.load_state_dict(norm.state_dict())
    return plain.eval()


def _rest(norm: nn.BatchNorm2d) -> nn.Module:
    """What is left of a batch norm when its affine map is gone."""
    if isinstance(norm, BatchNormAct2d):
        return nn.Sequential(norm.drop, norm.act)
    return nn.Identity()


def _replace(net: GraphModule, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(net.get_submodule(parent), own, module)
