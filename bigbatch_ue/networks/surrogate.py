"""The surrogate: the frozen network whose features are clustered and misled."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bigbatch_ue.config.schema import Config
from bigbatch_ue.config.sections import AugmentConfig, SurrogateConfig
from bigbatch_ue.data.decoded import DataSet
from bigbatch_ue.files.formats import digest
from bigbatch_ue.files.locks import locked
from bigbatch_ue.files.paths import expand_path
from bigbatch_ue.files.tensor_files import read_tensors, write_tensors
from bigbatch_ue.networks.backbone import Normalised, build_network
from bigbatch_ue.networks.classifier import train_classifier
from bigbatch_ue.networks.inference import accuracy, output_width, to_device, to_float
from bigbatch_ue.networks.recipe import TrainingSettings
from bigbatch_ue.networks.simclr import train_simclr
from bigbatch_ue.networks.spec import NetworkSpec, surrogate_spec
from bigbatch_ue.networks.weights import PACKAGE, load_body, load_package_body
from bigbatch_ue.reporting.words import percent
from bigbatch_ue.runtime.console import note
from bigbatch_ue.runtime.progress import progress
from bigbatch_ue.runtime.randomness import Purpose, torch_seed

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
    """Return the frozen feature extractor of `config`, and print one line on its weights.

    With `weights: fit`, the surrogate is trained once and kept in `cache`. It is trained on labels
    or, with a single class, by SimCLR. One of several processes trains; the others wait for it.

    Args:
        config: model, arguments, stem and source of the weights.
        data: decides channels and size; `weights: fit` trains on it.
        augment: padding and flip of the training views.
        seed: decides the weights of `fit` and `random`.
        cache: folder for trained weights.
        device: device of the surrogate.

    Returns:
        A module in evaluation mode and without gradients of its own (docs/design.md, invariant 2).
        It maps float [M, C, H, W] in [0, 1] to pooled features [M, d].

    Raises:
        UserError: as for `build_network`, or a weights file that does not contain this network.
    """
    kind, _, file = config.weights.partition(":")
    if kind == "pretrained":
        model = build_network(_spec(config, data), 0, pretrained=True)
        source = f"{_count_tensors(model)} pretrained tensors from timm's hub"
    elif kind == "random":
        model = _build_seeded(config, data, seed, classes=0)
        source = f"{_count_tensors(model)} random tensors (control), seed {seed}"
    elif kind == "fit":
        settings = TrainingSettings(config.fit, augment, seed, device)
        path = _train_once(config, data, settings, cache)
        model, count = load_body(path, _spec(config, data))
        source = f"{count} trained tensors from {path}; {read_tensors(path)[1]['accuracy']}"
    elif kind == "package":
        model, count = load_package_body(_spec(config, data))
        source = f"{count} tensors of ImageNet from the package {PACKAGE}"
    else:
        model, count = load_body(expand_path(file), _spec(config, data))
        source = f"{count} tensors from {file}"
    note(f"surrogate {config.model}: {source}")
    frozen: Normalised = model.eval().requires_grad_(False).to(device)
    return frozen.to(memory_format=torch.channels_last)


def surrogate_of_run(config: Config, data: DataSet, device: torch.device) -> Normalised:
    """Return the frozen surrogate of a run; trained weights are kept beside the data."""
    return prepare_surrogate(
        config.surrogate,
        data,
        augment=config.augment,
        seed=config.seed,
        cache=config.data.root / "surrogates",
        device=device,
    )


def extract_features(
    surrogate: nn.Module, images: NDArray[np.uint8], device: torch.device, batch: int = 256
) -> Tensor:
    """Return features float32 [N, d], on the CPU, of `images` uint8 [N, C, H, W] in order."""
    features = torch.empty(len(images), output_width(surrogate, images, device))
    with progress("features", "images", len(images)) as stage, torch.inference_mode():
        for start in range(0, len(images), batch):
            part = slice(start, start + batch)
            features[part] = surrogate(to_float(to_device(images[part], device)))
            stage.advance(len(images[part]))
    return features


def untrained_surrogate(config: SurrogateConfig, channels: int, size: int) -> Normalised:
    """Build the surrogate of `config` for images [channels, size, size], with random weights."""
    return build_network(surrogate_spec(config, channels, size), 0)


def _spec(config: SurrogateConfig, data: DataSet) -> NetworkSpec:
    _, channels, size, _ = data.train.images.shape
    return surrogate_spec(config, channels, size)


def _build_seeded(config: SurrogateConfig, data: DataSet, seed: int, *, classes: int) -> Normalised:
    """Build a network whose initial weights depend on the seed only."""
    with torch.random.fork_rng([]):
        torch.manual_seed(torch_seed(seed, Purpose.CONTROL))
        return build_network(_spec(config, data), classes)


def _train_once(
    config: SurrogateConfig, data: DataSet, settings: TrainingSettings, cache: Path
) -> Path:
    """Return the file of the surrogate trained on `data`; train it if there is none."""
    decisive = {
        "recipe": _RECIPE,
        "surrogate": config.answer(),
        "data": data.identity.fingerprint,
        "augment": settings.augment.model_dump(mode="json", include={"pad", "flip"}),
        "seed": settings.seed,
    }
    path = cache / f"surrogate-{digest(decisive)}.safetensors"
    cache.mkdir(parents=True, exist_ok=True)
    with locked(path.with_suffix(".lock")):
        if not path.exists():
            net, quality = _train(config, data, settings)
            write_tensors(path, net.state_dict(), {**decisive, "accuracy": quality})
    return path


def _train(
    config: SurrogateConfig, data: DataSet, settings: TrainingSettings
) -> tuple[nn.Module, str]:
    """Train a network on `data`; return it and a phrase on its quality."""
    images, labels = data.train.images, data.train.labels
    supervised = len(data.classes) > 1
    classes = len(data.classes) if supervised else 0
    model = _build_seeded(config, data, settings.seed, classes=classes)
    total = settings.recipe.epochs * len(images)
    with progress("training the surrogate", "images", total, any_process=True) as stage:
        if not supervised:
            losses = train_simclr(model, images, settings, on_images=stage.advance)
            return model.net, f"SimCLR loss {losses[0]:.3f} to {losses[-1]:.3f}"
        train_classifier(model, images, labels, settings, on_images=stage.advance)
    with progress("testing the surrogate", any_process=True):
        train = accuracy(model, images, labels, settings.device)
        test = accuracy(model, data.test.images, data.test.labels, settings.device)
    return model.net, f"accuracy {percent(train)} % on train, {percent(test)} % on test images"


def _count_tensors(model: Normalised) -> int:
    return sum(not key.endswith("num_batches_tracked") for key in model.net.state_dict())
