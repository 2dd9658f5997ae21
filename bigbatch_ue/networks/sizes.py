"""Parameters, activations and operations of networks, counted from their layout alone.

Building a network takes torch and timm, whose import takes seconds.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from bigbatch_ue.networks.spec import NetworkSpec  # imports timm

_RESNETS = {
    "resnet18": ([2, 2, 2, 2], 1),
    "resnet34": ([3, 4, 6, 3], 1),
    "resnet50": ([3, 4, 6, 3], 4),
    "resnet101": ([3, 4, 23, 3], 4),
    "resnet152": ([3, 8, 36, 3], 4),
}
"""Blocks in each stage, and by how much a block widens its output: 1 for basic, 4 for bottleneck
blocks."""
_CHANNELS = [64, 128, 256, 512]
_GENERATOR_BLOCKS = 6
_HELD_BY_A_SMALL_BANK = 2**26
"""Outputs of layers that a whole bank may hold for its backward pass: 256 MiB in float32."""


class NetworkSize(NamedTuple):
    """The size of a network.

    Attributes:
        parameters: number of parameters.
        activations: outputs of all layers for one image.
        operations: floating-point operations of the convolutions and matrix products of one image
            forward; a multiply-add counts as two.
    """

    parameters: int
    activations: int
    operations: int

    @classmethod
    def of(cls, layers: Iterator["NetworkSize"]) -> "NetworkSize":
        """Add up the sizes of `layers`."""
        return cls(*map(sum, zip(*layers, strict=True)))


def generator_size(channels: int, width: int, size: int) -> NetworkSize:
    """Count a `ResNetGenerator` for images [channels, size, size]."""
    half, quarter = _halved(size), _halved(_halved(size))

    def layers() -> Iterator[NetworkSize]:
        yield _convolution(channels, width, 7, size, beside=2)
        yield _convolution(width, 2 * width, 3, half, beside=2)
        yield _convolution(2 * width, 4 * width, 3, quarter, beside=2)
        for _ in range(_GENERATOR_BLOCKS):
            yield _convolution(4 * width, 4 * width, 3, quarter, beside=2)
            yield _convolution(4 * width, 4 * width, 3, quarter, beside=1)
        yield _convolution(4 * width, 2 * width, 3, 2 * quarter, beside=2, kernels=quarter)
        yield _convolution(2 * width, width, 3, 4 * quarter, beside=2, kernels=2 * quarter)
        pixels = channels * (4 * quarter) ** 2
        yield NetworkSize(channels * (49 * width + 1), 2 * pixels, 2 * 49 * width * pixels)

    return NetworkSize.of(layers())


def generators_held(count: int, size: NetworkSize) -> int:
    """Return of how many of `count` generators the activations are held at a time: all, or one."""
    return count if count * size.activations <= _HELD_BY_A_SMALL_BANK else 1


def resnet_size(spec: "NetworkSpec") -> NetworkSize | None:
    """Count timm's ResNet of `spec` without its classifier; None for other networks.

    Only `channels` and `layers` may be among `spec.args`.
    """
    known = spec.name in _RESNETS and spec.args.keys() <= {"channels", "layers"}
    if not known or not all(map(_four_numbers, spec.args.values())):
        return None
    layers, widening = _RESNETS[spec.name]
    counts, channels = spec.args.get("layers", layers), spec.args.get("channels", _CHANNELS)
    return NetworkSize.of(_resnet_layers(spec, counts, channels, widening))


def _four_numbers(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 4
        and all(type(number) is int and 0 < number <= 2**16 for number in value)
    )


def _resnet_layers(
    spec: "NetworkSpec", counts: list[int], channels: list[int], widening: int
) -> Iterator[NetworkSize]:
    small, size = spec.has_small_stem, spec.seen_size
    inputs = 64
    size = size if small else _halved(size)
    yield _convolution(spec.channels, inputs, 3 if small else 7, size, beside=2)
    size = size if small else _halved(size)
    yield NetworkSize(0, inputs * size**2, 0)  # the pool, or its place
    for stage, (count, width) in enumerate(zip(counts, channels, strict=True)):
        for block in range(count):
            strided = stage > 0 and block == 0
            after, outputs = _halved(size) if strided else size, widening * width
            if widening > 1:
                yield _convolution(inputs, width, 1, size, beside=2)
                yield _convolution(width, width, 3, after, beside=4)
                yield _convolution(width, outputs, 1, after, beside=2)
            else:
                yield _convolution(inputs, width, 3, after, beside=4)
                yield _convolution(width, outputs, 3, after, beside=2)
            if strided or inputs != outputs:
                yield _convolution(inputs, outputs, 1, after, beside=1)
            inputs, size = outputs, after
    yield NetworkSize(0, 3 * inputs, 0)  # pool, flattening, and the place of the classifier


def _convolution(
    inputs: int, outputs: int, kernel: int, size: int, beside: int, kernels: int | None = None
) -> NetworkSize:
    """Count a convolution without bias, its batch norm, and all `beside` layers of its output.

    The kernel is applied at `kernels`^2 places: those of the output, or if transposed of the input.
    """
    weights = inputs * outputs * kernel**2
    activations = (1 + beside) * outputs * size**2
    return NetworkSize(weights + 2 * outputs, activations, 2 * weights * (kernels or size) ** 2)


def _halved(size: int) -> int:
    """Return the output size of a layer of stride 2 that is padded."""
    return (size + 1) // 2
