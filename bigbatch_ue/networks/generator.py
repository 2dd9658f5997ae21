"""The generator bank: p ResNet generators in one module, each with one perturbation."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bigbatch_ue.config.sections import GeneratorConfig
from bigbatch_ue.networks.sizes import generator_size, generators_held
from bigbatch_ue.runtime.randomness import Purpose, torch_seed


def _norm(channels: int) -> nn.BatchNorm2d:
    # The norm sees one sample and takes that sample's statistics. Without running statistics it is
    # the same function in training and evaluation, and ranks have no buffer to disagree on.
    return nn.BatchNorm2d(channels, track_running_stats=False)


class _ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect", bias=False),
            _norm(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect", bias=False),
            _norm(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.body(x)
        return x + residual


class ResNetGenerator(nn.Sequential):
    """Image-to-image ResNet of Johnson et al. (ECCV 2016) with six residual blocks.

    The layers are a reflection-padded 7x7 convolution, two strided convolutions down, six residual
    blocks with 4 * `width` channels, two transposed convolutions up, a 7x7 convolution and tanh.
    They map [n, C, H, W] to [n, C, 4 * ceil(H / 4), 4 * ceil(W / 4)] in (-1, 1). At width 64 they
    have 7.8 million parameters.
    """

    def __init__(self, channels: int, width: int) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(channels, width, 7, padding=3, padding_mode="reflect", bias=False),
            _norm(width),
            nn.ReLU(inplace=True),
        ]
        for w in (width, 2 * width):
            layers += [
                nn.Conv2d(w, 2 * w, 3, stride=2, padding=1, bias=False),
                _norm(2 * w),
                nn.ReLU(inplace=True),
            ]
        layers += [_ResidualBlock(4 * width) for _ in range(6)]
        for w in (4 * width, 2 * width):
            layers += [
                nn.ConvTranspose2d(w, w // 2, 3, 2, padding=1, output_padding=1, bias=False),
                _norm(w // 2),
                nn.ReLU(inplace=True),
            ]
        layers += [nn.Conv2d(width, channels, 7, padding=3, padding_mode="reflect"), nn.Tanh()]
        super().__init__(*layers)


class GeneratorBank(nn.Module):
    """p generators, each with its own fixed input drawn uniformly from [0, 1).

    Args:
        clusters: p.
        channels: C, 1 or 3.
        size: H = W, at least 8.
        config: width, eps and bound.
        seed: seed of the run. Generator c depends on (seed, c) only, not on p.
        first: c of the first generator, where this bank is part of a larger one.
    """

    noise: Tensor

    def __init__(
        self,
        clusters: int,
        channels: int,
        size: int,
        config: GeneratorConfig,
        seed: int,
        first: int = 0,
    ) -> None:
        super().__init__()
        self.eps = config.eps
        self.bound = config.bound
        generators, noise = [], []
        for cluster in range(clusters):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(torch_seed(seed, Purpose.GENERATOR, first + cluster))
                generators.append(ResNetGenerator(channels, config.width))
                noise.append(torch.rand(channels, size, size))
        self.generators = nn.ModuleList(generators)
        self.register_buffer("noise", torch.stack(noise), persistent=False)
        each = generator_size(channels, config.width, size)
        self.recomputes = generators_held(clusters, each) < clusters

    def forward(self, indices: Sequence[int] | None = None) -> Tensor:
        """Return the perturbations of generators, float32 [n, C, H, W] in [-eps, eps].

        The activations of a small bank are kept for the backward pass. Those of a large one are
        computed once more, one generator at a time, so that the peak memory is that of one
        generator. The result is the same, since the batch norm has no running statistics.

        Args:
            indices: which generators; None: all. A module under DDP or FSDP on a GPU must have an
                argument.
        """
        chosen = range(len(self.generators)) if indices is None else indices
        return torch.stack([self._run(index) for index in chosen])

    def _run(self, index: int) -> Tensor:
        if not self.recomputes:
            return self.perturbation(index)
        again: Tensor = checkpoint(
            self.perturbation, index, use_reentrant=False, preserve_rng_state=False
        )
        return again

    def perturbation(self, index: int) -> Tensor:
        """Return the perturbation of one generator, float32 [C, H, W] in [-eps, eps]."""
        height, width = self.noise.shape[-2:]
        raw: Tensor = self.generators[index](self.noise[index][None])[0, :, :height, :width]
        return self.eps * raw if self.bound == "tanh" else raw.clamp(-self.eps, self.eps)
