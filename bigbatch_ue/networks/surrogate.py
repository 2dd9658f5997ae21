"""The surrogate: the frozen network whose features are clustered and misled."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor, nn

from bigbatch_ue.config.schema import Config
from bigbatch_ue.config.sections import AugmentConfig, SurrogateConfig
from bigbatch_ue.data.decoded import DataSet
from bigbatch_ue.files.formats import digest
from bigbatch_ue.files.paths import expand_path
from bigbatch_ue.files.tensor_files import read_tensors, write_tensors
from bigbatch_ue.networks.backbone import NetworkSpec, Normalised, build_network
from bigbatch_ue.networks.classifier import train_classifier
from bigbatch_ue.networks.inference import accuracy, output_width, to_device, to_float
from bigbatch_ue.networks.simclr import train_simclr
from bigbatch_ue.networks.weights import load_body
from bigbatch_ue.runtime.console import progress_bar
from bigbatch_ue.runtime.randomness import Purpose, torch_seed
from bigbatch_ue.runtime.ranks import is_main_process

_RECIPE = 1


def prepare_surrogate(
    config: SurrogateConfig,
    data: DataSet,
    *,
    augment: AugmentConfig,
    seed: int,
    cache: Path,
    device: torch.device,
) -> Normalised:
    """The frozen feature extractor that `config` names, and one printed line on its weights.

    A fitted surrogate is trained once, by labels or, with a single class, by SimCLR, and kept in
    `cache`; of several processes one trains and the others wait for it.

    Args:
        config: model, arguments, stem and where the weights come from.
        data: decides channels and size, and is what `weights: fit` trains on.
        augment: padding and flip of the training views.
        seed: decides the weights of `fit` and `random`.
        cache: folder for fitted weights.
        device: where the surrogate is to be.

    Returns:
        A module in evaluation mode without gradients of its own, float [M, C, H, W] in [0, 1] to
        pooled features [M, d].

    Raises:
        UserError: as for `build_network`; a weights file that does not hold this very network.
    """
    kind, _, file = config.weights.partition(":")
    if kind == "pretrained":
        model = build_network(_spec(config, data), 0, pretrained=True)
        _say(f"surrogate {config.model}: {_count(model)} pretrained tensors from timm's hub")
    elif kind == "random":
        model = _seeded(config, data, seed, classes=0)
        _say(f"surrogate {config.model}: {_count(model)} random tensors (control), seed {seed}")
    elif kind == "fit":
        path = _trained_file(config, data, augment, seed, cache, device)
        model, count = load_body(path, _spec(config, data))
        note = read_tensors(path)[1]["accuracy"]
        _say(f"surrogate {config.model}: {count} fitted tensors from {path}; {note}")
    else:
        model, count = load_body(expand_path(file), _spec(config, data))
        _say(f"surrogate {config.model}: {count} tensors from {file}")
    frozen: Normalised = model.eval().requires_grad_(False).to(device)
    return frozen.to(memory_format=torch.channels_last)


def extract_features(
    surrogate: nn.Module, images: NDArray[np.uint8], device: torch.device, batch: int = 256
) -> Tensor:
    """Features float32 [N, d] on the CPU of `images` uint8 [N, C, H, W], in their order."""
    features = torch.empty(len(images), output_width(surrogate, images, device))
    with progress_bar(transient=True) as progress, torch.inference_mode():
        for start in progress.track(range(0, len(images), batch), description="features"):
            part = slice(start, start + batch)
            features[part] = surrogate(to_float(to_device(images[part], device)))
    return features


def surrogate_spec(config: SurrogateConfig, channels: int, size: int) -> NetworkSpec:
    """Describe the surrogate of `config` for images [channels, size, size]."""
    return NetworkSpec(config.model, channels, size, config.args, config.stem)


def _spec(config: SurrogateConfig, data: DataSet) -> NetworkSpec:
    _, channels, size, _ = data.train.images.shape
    return surrogate_spec(config, channels, size)


def _seeded(config: SurrogateConfig, data: DataSet, seed: int, *, classes: int) -> Normalised:
    """A network whose initial weights depend on the seed only."""
    with torch.random.fork_rng([]):
        torch.manual_seed(torch_seed(seed, Purpose.CONTROL))
        return build_network(_spec(config, data), classes)


def _trained_file(
    config: SurrogateConfig,
    data: DataSet,
    augment: AugmentConfig,
    seed: int,
    cache: Path,
    device: torch.device,
) -> Path:
    """The file of the surrogate fitted to `data`, which is made unless it is there."""
    decisive = {
        "recipe": _RECIPE,
        "surrogate": config.model_dump(mode="json"),
        "data": data.fingerprint,
        "augment": augment.model_dump(mode="json", exclude={"perturb"}),
        "seed": seed,
    }
    path = cache / f"surrogate-{digest(decisive)}.safetensors"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            net, reached = _train(config, data, augment, seed, device)
            write_tensors(path, net.state_dict(), {**decisive, "accuracy": reached})
    return path


def _train(
    config: SurrogateConfig, data: DataSet, augment: AugmentConfig, seed: int, device: torch.device
) -> tuple[nn.Module, str]:
    """Train a network on `data`: itself, and a phrase on how well it did."""
    recipe = config.fit
    images, labels = data.train.images, data.train.labels
    supervised = len(data.classes) > 1
    model = _seeded(config, data, seed, classes=len(data.classes) if supervised else 0)
    with progress_bar(transient=True) as progress:
        task = progress.add_task("fitting the surrogate", total=recipe.epochs)

        def on_epoch(*_: Any) -> None:
            progress.advance(task)

        if supervised:
            train_classifier(
                model,
                images,
                labels,
                recipe=recipe,
                augment=augment,
                seed=seed,
                device=device,
                on_epoch=on_epoch,
            )
        else:
            losses = train_simclr(
                model,
                images,
                recipe=recipe,
                augment=augment,
                seed=seed,
                device=device,
                on_epoch=on_epoch,
            )
            return model.net, f"SimCLR loss {losses[0]:.3f} to {losses[-1]:.3f}"
    train = accuracy(model, images, labels, device)
    test = accuracy(model, data.test.images, data.test.labels, device)
    return model.net, f"accuracy {train:.3f} on train, {test:.3f} on test images"


def _count(model: Normalised) -> int:
    return sum(not key.endswith("num_batches_tracked") for key in model.net.state_dict())


def _say(line: str) -> None:
    if is_main_process():
        print(line, file=sys.stderr, flush=True)


def surrogate_of_run(config: Config, data: DataSet, device: torch.device) -> nn.Module:
    """The frozen surrogate of a run, its fitted weights kept beside the data."""
    return prepare_surrogate(
        config.surrogate,
        data,
        augment=config.augment,
        seed=config.seed,
        cache=config.data.root / "surrogates",
        device=device,
    )
