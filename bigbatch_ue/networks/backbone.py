"""Any timm network for images in [0, 1] of any size and channels, with a stem that suits them."""

import difflib
from collections.abc import Mapping
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

from bigbatch_ue.runtime.errors import UserError

Stem = Literal["auto", "small", "standard"]

SMALL = 64
_LOADS = {"cache_dir", "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"}
SMALL_PATCH = 4
STEM_POOLS = ("maxpool", "stem.pool", "features.pool0")


class Normalised(nn.Module):
    """A timm network `net` for images in [0, 1]: their mean and deviation are taken off first."""

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, channels: int) -> None:
        super().__init__()
        self.net = net
        for name in ("mean", "std"):
            values = torch.tensor(net.pretrained_cfg[name]).view(1, -1, 1, 1)  # type: ignore[index]
            values = values.mean(1, keepdim=True) if channels == 1 else values
            self.register_buffer(name, values, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Float images [M, C, H, W] in [0, 1] to the network's output."""
        output: Tensor = self.net((images - self.mean) / self.std)
        return output


def build_model(
    name: str,
    *,
    channels: int,
    classes: int,
    size: int,
    args: Mapping[str, Any],
    stem: Stem = "auto",
    pretrained: bool = False,
) -> Normalised:
    """Build a timm network for images in [0, 1] of `channels` and `size` x `size` pixels.

    Weights are drawn from torch's global random numbers, or come from the hub if `pretrained`.
    With a small-image stem (`small`, or `auto` below 64 pixels) the first convolution keeps the
    resolution, as 3x3 unless `pretrained`, and the pooling after it is gone (the CIFAR stem of
    He et al., arXiv 1512.03385, section 4.2). A vision transformer is made for images of `size`,
    with patches of 4 pixels in place of that stem; `args` may say otherwise.

    Args:
        name: any timm model name.
        channels: 1 or 3.
        classes: outputs; 0 for the pooled features before the classifier.
        size: height and width of the images.
        args: more arguments for `timm.create_model`.
        stem: which stem.
        pretrained: load the weights that timm publishes.

    Returns:
        A module, float [M, channels, size, size] to [M, classes or d].

    Raises:
        UserError: no such model, arguments or size that it does not take, weights that cannot be
            fetched.
    """
    args = {**_input_args(name, size, stem), **args}
    net = create_network(name, channels, classes, args, hub=pretrained)
    if pretrained:
        net = _fetch(name, channels, classes, args)
    if has_small_stem(stem, size):
        shrink_stem(net, keep_kernel=pretrained)
    return check_output(Normalised(net, channels), name, channels, size)


def create_network(
    name: str, channels: int, classes: int, args: Mapping[str, Any], *, hub: bool = False
) -> nn.Module:
    """A timm network as timm makes it; an unknown name or argument is a `UserError`.

    Only with `hub` may the name be of another hub or of a folder, such as `hf-hub:user/model`.
    """
    if ":" in name and not hub:
        raise UserError(f"{name}: goes with weights=pretrained only; else give timm's own name")
    base = name.partition(".")[0]
    if ":" not in name and not timm.is_model(base):
        close = difflib.get_close_matches(base, timm.list_models()) or ["timm.list_models()"]
        raise UserError(f"unknown model {name!r}; did you mean {', '.join(close)}?")
    unsafe = sorted(_LOADS & args.keys())
    if unsafe:
        raise UserError(f"{name}: args.{unsafe[0]} is not taken; weights are set by `weights`")
    try:
        net: nn.Module = timm.create_model(name, in_chans=channels, num_classes=classes, **args)
    except Exception as error:
        given = f" with args {dict(args)}" if args else ""
        raise UserError(f"timm cannot build {name}{given}: {first_line(error)}") from None
    return net


def _input_args(name: str, size: int, stem: Stem) -> dict[str, int]:
    """What tells a network of fixed input size the size of the images, and of its patches."""
    if ":" in name or not timm.is_model(name.partition(".")[0]):
        return {}
    known = timm.get_pretrained_cfg(name)
    if not getattr(known, "fixed_input_size", False):
        return {}
    patches = known.first_conv == "patch_embed.proj" and has_small_stem(stem, size)
    return {"img_size": size} | ({"patch_size": SMALL_PATCH} if patches else {})


def _fetch(name: str, channels: int, classes: int, args: Mapping[str, Any]) -> nn.Module:
    try:
        net: nn.Module = timm.create_model(
            name, pretrained=True, in_chans=channels, num_classes=classes, **args
        )
    except Exception as error:
        raise UserError(
            f"no pretrained weights for {name} ({first_line(error)}); where there is a network, "
            f"save timm.create_model({name!r}, pretrained=True).state_dict() with "
            "safetensors.torch.save_file(..., PATH), copy it here and set "
            "its weights to file:PATH"
        ) from None
    return net


def check_output(model: Normalised, name: str, channels: int, size: int) -> Normalised:
    """Raise a `UserError` unless `model` maps images of this kind to one row each."""
    training = model.training
    try:
        with torch.inference_mode():
            shape = tuple(model.eval()(torch.zeros(1, channels, size, size)).shape)
    except Exception as error:
        raise UserError(
            f"{name} does not take {size} pixel images ({first_line(error)}); change data.size, or "
            "args such as img_size and patch_size"
        ) from None
    if len(shape) != 2:
        raise UserError(f"{name} gives features of shape {shape}, not one row for each image")
    return model.train(training)


def has_small_stem(stem: Stem, size: int) -> bool:
    """Whether images of `size` pixels get the small-image stem."""
    return stem == "small" or (stem == "auto" and size < SMALL)


def first_convolutions(net: nn.Module) -> list[str]:
    """Names of the convolutions that see the image, several in a multi-branch stem."""
    names = net.pretrained_cfg["first_conv"]  # type: ignore[index]
    return [names] if isinstance(names, str) else list(names or ())


def shrink_stem(net: nn.Module, *, keep_kernel: bool) -> None:
    """Let the first convolution keep the resolution, 3x3 or its own kernel, and drop the pool."""
    for name in first_convolutions(net):
        conv = net.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        if conv.stride == conv.kernel_size:
            return
        if keep_kernel or max(conv.kernel_size) <= 3 or type(conv) is not nn.Conv2d:
            conv.stride = (1, 1)
        else:
            net.set_submodule(name, _three_by_three(conv))
    for name, module in list(net.named_modules()):
        if name in STEM_POOLS and any(isinstance(m, nn.MaxPool2d) for m in module.modules()):
            net.set_submodule(name, nn.Identity())


def _three_by_three(conv: nn.Conv2d) -> nn.Conv2d:
    small = nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=1, bias=conv.bias is not None)
    nn.init.kaiming_normal_(small.weight, mode="fan_out", nonlinearity="relu")
    return small


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
