"""Any timm network for images in [0, 1], with a stem for their size and channels."""

import difflib
from dataclasses import replace
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigbatch_ue.networks.spec import NetworkSpec
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.progress import progress

SMALL_PATCH = 4
STEM_POOLS = ("maxpool", "stem.pool", "features.pool0")
_LARGEST_ARG = 65_536
"""Largest number of layers or channels: timm builds layer by layer, without an end for 10^18."""
_FORBIDDEN_ARGS = {
    "cache_dir",
    "checkpoint_path",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
}


class Normalised(nn.Module):
    """A timm network `net` for images in [0, 1], which are resized and normalised before it.

    Attributes:
        resize_to: height and width to which images are resized first, bicubically and antialiased;
            None leaves them as they are.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, spec: NetworkSpec) -> None:
        super().__init__()
        self.net = net
        self.resize_to = spec.seen_size if spec.seen_size != spec.size else None
        for name in ("mean", "std"):
            values = torch.tensor(net.pretrained_cfg[name]).view(1, -1, 1, 1)  # type: ignore[index]
            values = values.mean(1, keepdim=True) if spec.channels == 1 else values
            self.register_buffer(name, values, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map float images [M, C, H, W] in [0, 1] to the network's output."""
        if self.resize_to is not None:
            size = (self.resize_to, self.resize_to)
            images = F.interpolate(images, size, mode="bicubic", antialias=True)
        output: Tensor = self.net((images - self.mean) / self.std)
        return output


def build_network(spec: NetworkSpec, classes: int, *, pretrained: bool = False) -> Normalised:
    """Build the network of `spec` for images in [0, 1].

    The weights are drawn from torch's global random numbers, or downloaded if `pretrained`.

    The stem for small images is the CIFAR stem of He et al. (arXiv 1512.03385, section 4.2): the
    first convolution keeps the resolution, and the pooling after it is left out. The kernel is 3x3,
    or that of the `pretrained` weights. A vision transformer is built for images of the size it
    sees. Instead of a small stem, it gets patches of 4 pixels, unless `spec.args` says otherwise.

    Args:
        spec: the network and its input images.
        classes: number of outputs; 0 for the pooled features before the classifier.
        pretrained: load the weights that timm publishes.

    Returns:
        A module that maps float [M, channels, size, size] to [M, classes or d].

    Raises:
        UserError: the model is unknown, rejects its arguments or the image size, or its weights
            cannot be downloaded.
    """
    sized = replace(spec, args={**_input_args(spec), **spec.args})
    net = create_network(sized, classes, hub=pretrained)
    if pretrained:
        net = _download_pretrained(sized, classes)
    if spec.has_small_stem:
        shrink_stem(net, keep_kernel=pretrained)
    return check_output(Normalised(net, spec), spec)


def create_network(spec: NetworkSpec, classes: int, *, hub: bool = False) -> nn.Module:
    """Create the network as timm does, with random weights and timm's own stem.

    Args:
        spec: the network and its input images.
        classes: number of outputs; 0 for the pooled features.
        hub: allow the name of another hub or of a folder, such as `hf-hub:user/model`.

    Raises:
        UserError: an unknown name or argument.
    """
    name = spec.name
    if ":" in name and not hub:
        raise UserError(f"{name}: needs weights=pretrained; set it, or use one of timm's own names")
    base = name.partition(".")[0]
    if ":" not in name and not timm.is_model(base):
        similar = difflib.get_close_matches(base, timm.list_models())
        advice = f"did you mean {', '.join(similar)}?" if similar else "see timm.list_models()"
        raise UserError(f"model {name!r}: timm has no such model; {advice}")
    forbidden = sorted(_FORBIDDEN_ARGS & spec.args.keys())
    if forbidden:
        raise UserError(f"{name}: args.{forbidden[0]} is not allowed; set `weights` instead")
    for key, value in spec.args.items():
        if _largest(value) > _LARGEST_ARG:
            raise UserError(
                f"{name}: args.{key} is {value}; use at most {_LARGEST_ARG:,} layers or channels"
            )
    try:
        net: nn.Module = timm.create_model(
            name, in_chans=spec.channels, num_classes=classes, **spec.args
        )
    except Exception as error:
        given = f" with args {dict(spec.args)}" if spec.args else ""
        raise UserError(
            f"{name}: timm cannot build it{given} ({first_line(error)}); change args"
        ) from None
    return net


def _largest(value: Any) -> float:
    """Return the largest number in `value`, which may be nested lists; 0 if there is none."""
    if isinstance(value, list | tuple):
        return max(map(_largest, value), default=0)
    return value if isinstance(value, int | float) else 0


def _input_args(spec: NetworkSpec) -> dict[str, int]:
    """Return the sizes of images and patches, for a network of fixed input size."""
    if ":" in spec.name or not timm.is_model(spec.name.partition(".")[0]):
        return {}
    published = timm.get_pretrained_cfg(spec.name)
    if not getattr(published, "fixed_input_size", False):
        return {}
    patches = published.first_conv == "patch_embed.proj" and spec.has_small_stem
    return {"img_size": spec.seen_size} | ({"patch_size": SMALL_PATCH} if patches else {})


def _download_pretrained(spec: NetworkSpec, classes: int) -> nn.Module:
    name = spec.name
    try:
        with progress(f"pretrained weights of {name}", any_process=True):
            net: nn.Module = timm.create_model(
                name, pretrained=True, in_chans=spec.channels, num_classes=classes, **spec.args
            )
    except Exception as error:
        raise UserError(
            f"{name}: cannot download pretrained weights ({first_line(error)}); take a preset "
            "that needs none, such as --preset small, or on a machine with internet access "
            f" save timm.create_model({name!r}, pretrained=True).state_dict() with "
            "safetensors.torch.save_file(..., PATH), then copy the file here and set "
            "weights=file:PATH"
        ) from None
    return net


def check_output(model: Normalised, spec: NetworkSpec) -> Normalised:
    """Return `model` if it maps each image of `spec` to one vector.

    Raises:
        UserError: the model rejects such images, or its output has another shape.
    """
    training = model.training
    try:
        with torch.inference_mode():
            shape = tuple(model.eval()(torch.zeros(1, spec.channels, spec.size, spec.size)).shape)
    except Exception as error:
        raise UserError(
            f"{spec.name}: does not take images of {spec.seen_size} pixels ({first_line(error)}); "
            "change data.size, or args such as img_size and patch_size"
        ) from None
    if len(shape) != 2:
        raise UserError(
            f"{spec.name}: its features have shape {shape}, not one vector for each image; "
            "choose another model"
        )
    return model.train(training)


def first_convolutions(net: nn.Module) -> list[str]:
    """Return the names of the convolutions that see the image: several in a multi-branch stem."""
    names = net.pretrained_cfg["first_conv"]  # type: ignore[index]
    return [names] if isinstance(names, str) else list(names or ())


def shrink_stem(net: nn.Module, *, keep_kernel: bool) -> None:
    """Make the first convolution keep the resolution, 3x3 or with its own kernel; drop the pool."""
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
    smaller = nn.Conv2d(
        conv.in_channels, conv.out_channels, 3, padding=1, bias=conv.bias is not None
    )
    nn.init.kaiming_normal_(smaller.weight, mode="fan_out", nonlinearity="relu")
    return smaller


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
