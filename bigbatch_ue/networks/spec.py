"""The description of a timm network and of the images that it is given."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from bigbatch_ue.config.evaluation_sections import TargetConfig
from bigbatch_ue.config.section import InputSize
from bigbatch_ue.config.sections import SurrogateConfig
from bigbatch_ue.runtime.errors import UserError

Stem = Literal["auto", "small", "standard"]

SMALL_SIZE = 64


@dataclass(frozen=True)
class NetworkSpec:
    """A timm network and the format of its input images.

    Attributes:
        name: any timm model name.
        channels: 1 or 3.
        size: height and width of the images in pixels.
        args: further arguments for `timm.create_model`.
        stem: `small` keeps the resolution in the first convolution, `standard` does not. `auto` is
            `small` if the network sees fewer than 64 pixels.
        sees: height and width to which the images are resized first: `data` leaves them as they
            are, `own` is the size at which timm's network was pretrained.
    """

    name: str
    channels: int
    size: int
    args: Mapping[str, Any] = field(default_factory=dict)
    stem: Stem = "auto"
    sees: InputSize = "data"

    @cached_property
    def seen_size(self) -> int:
        """Height and width, in pixels, at which the network sees the images.

        Raises:
            UserError: `sees` is `own`, and timm publishes no such network.
        """
        match self.sees:
            case "data":
                return self.size
            case "own":
                return _own_size(self.name)
            case pixels:
                return pixels

    @property
    def has_small_stem(self) -> bool:
        """Whether the network gets the stem for small images."""
        return self.stem == "small" or (self.stem == "auto" and self.seen_size < SMALL_SIZE)


def surrogate_spec(config: SurrogateConfig, channels: int, size: int) -> NetworkSpec:
    """Describe the surrogate of `config` for images [channels, size, size]."""
    return NetworkSpec(config.model, channels, size, config.args, config.stem, config.size)


def target_spec(config: TargetConfig, channels: int, size: int) -> NetworkSpec:
    """Describe the target of `config` for images [channels, size, size]."""
    return NetworkSpec(config.model, channels, size, config.args, sees=config.size)


def _own_size(name: str) -> int:
    """Return the height and width of the images on which timm's network `name` was pretrained.

    Raises:
        UserError: timm publishes no such network.
    """
    import timm  # takes seconds

    known = timm.is_model(name.partition(".")[0])
    published = timm.get_pretrained_cfg(name) if known else None
    if published is None:
        raise UserError(f"{name}: timm knows no size of its own; set `size` to pixels")
    size: int = published.input_size[-1]
    return size
