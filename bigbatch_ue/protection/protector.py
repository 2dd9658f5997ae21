"""The protector of a collection: what further images of it need, and nothing of the old ones."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError
from torch import Tensor

from bigbatch_ue import __version__
from bigbatch_ue.clustering.clusters import Clusters
from bigbatch_ue.config.names import Grouping
from bigbatch_ue.data.decoded import dataset_of_run
from bigbatch_ue.data.source import Labels, Pixels
from bigbatch_ue.files.atomic import atomic_folder
from bigbatch_ue.files.formats import first_problem, read_json, write_json
from bigbatch_ue.files.tensor_files import read_tensors, require_tensors, write_tensors
from bigbatch_ue.networks.backbone import Normalised
from bigbatch_ue.networks.spec import NetworkSpec, Stem, surrogate_spec
from bigbatch_ue.networks.surrogate import extract_features, surrogate_of_run
from bigbatch_ue.networks.weights import load_body
from bigbatch_ue.protection.perturbations import Perturbations, load_perturbations
from bigbatch_ue.reporting.words import counted
from bigbatch_ue.runs.folder import RunFiles, load_run
from bigbatch_ue.runtime.errors import UserError

SETTINGS = "protector.json"
TENSORS = "protector.safetensors"
WEIGHTS = "surrogate.safetensors"
CARD = "README.md"
PRIVATE = (
    "Keep it to yourself: with it, perturbations can be subtracted from what was published, or "
    "imitated."
)
_FORMAT = 1
_CARD = """\
---
library_name: bigbatch-ue
tags:
- unlearnable-examples
- unlearnable-clusters
- data-protection
---

# Protector of {settings.title}

Perturbs further images of the collection "{settings.title}", so that a network trained on them does
badly on clean images. It contains {clusters} perturbations of at most {units:.3g}/255, each for one
cluster of images, {told}. It contains no image and no path.

    hf download USER/NAME --local-dir THIS_FOLDER
    bigbatch-ue apply THIS_FOLDER IMAGES --out PERTURBED

* Images: {channels}; perturbations of {settings.size} x {settings.size} pixels, resized to each
  image.
* Classes: {classes}.
* {private}
* What it does not protect from is in `docs/limits.md` of bigbatch-ue.
* Files: {files}.
* Made by bigbatch-ue {version}, after Unlearnable Clusters (Zhang et al., CVPR 2023,
  arXiv:2301.01217).
* Licence: none is given. To give one, add a line such as `license: cc-by-4.0` to the first lines of
  this file.{weights}
"""
_WEIGHTS_LICENCE = """ If the surrogate was pretrained, the licence of its weights holds for
  `surrogate.safetensors`."""


class ProtectorSettings(BaseModel):
    """Contents of `protector.json`.

    Attributes:
        format: version of the files.
        title: name of the data set, without its place.
        by: how images were grouped.
        eps: bound of each value, where white is 1.
        size: height and width of the perturbations in pixels.
        channels: 1 or 3.
        classes: names of the classes.
        model: timm name of the surrogate; None where images are grouped by class alone.
        args: further arguments of the surrogate.
        stem: first layers of the surrogate.
        seen_size: height and width at which the surrogate sees images.
    """

    format: int = _FORMAT
    title: str
    by: Grouping
    eps: float
    size: int
    channels: int
    classes: list[str]
    model: str | None = None
    args: dict[str, Any] = {}
    stem: Stem = "auto"
    seen_size: int = 0


@dataclass(frozen=True)
class Protector:
    """The perturbations of a collection, and how to choose the one for a further image.

    Attributes:
        settings: settings of the run.
        delta: float32 [p, C, H, W] in [-eps, eps].
        centres: float32 [p, d], mean features of each cluster.
        labels: int64 [p], the class of each cluster; -1 where clusters do not follow classes.
        surrogate: the frozen network of the features; None where classes alone decide.
    """

    settings: ProtectorSettings
    delta: NDArray[np.float32]
    centres: Tensor
    labels: NDArray[np.int64]
    surrogate: Normalised | None

    def __str__(self) -> str:
        """Say in a line what the protector contains."""
        count, *_, size = self.delta.shape
        return (
            f"{counted(count, 'perturbation')} of {size} x {size} pixels, for images of "
            f"{counted(len(self.settings.classes), 'class')}; no image, no path"
        )

    @property
    def needs_classes(self) -> bool:
        """Whether the class of an image must be known."""
        return self.settings.by != Grouping.FEATURES

    def choose(self, images: Pixels, labels: Labels) -> NDArray[np.int64]:
        """Choose the cluster of each image.

        Args:
            images: uint8 [N, C, H, W] of the size of the perturbations.
            labels: int64 [N], the class of each image; not used where clusters ignore classes.

        Returns:
            int64 [N]: the cluster of the nearest centre, of the image's own class if there is one.
        """
        allowed = np.ones((len(images), len(self.delta)), bool)
        if self.needs_classes:
            allowed = labels[:, None] == self.labels[None, :]
        if self.surrogate is None:
            return np.asarray(allowed.argmax(axis=1))
        features = extract_features(self.surrogate, images, torch.device("cpu"))
        distances = torch.cdist(features, self.centres).numpy()
        return np.asarray(np.where(allowed, distances, np.inf).argmin(axis=1))

    def perturbations(self, assignment: NDArray[np.int64]) -> Perturbations:
        """Return the perturbations of images in the clusters `assignment` [N]."""
        return Perturbations(self.delta, assignment, self.settings.eps)

    def save(self, folder: Path) -> None:
        """Write the protector as a new folder, atomically.

        Raises:
            UserError: the folder exists.
        """
        if folder.exists():
            raise UserError(f"{folder}: exists; choose another folder")
        tensors = {
            "perturbations": torch.from_numpy(self.delta),
            "centres": self.centres,
            "labels": torch.from_numpy(self.labels),
        }
        with atomic_folder(folder) as temporary:
            write_tensors(temporary / TENSORS, tensors, {})
            write_json(temporary / SETTINGS, self.settings.model_dump(mode="json"))
            if self.surrogate is not None:
                write_tensors(temporary / WEIGHTS, self.surrogate.net.state_dict(), {})
            (temporary / CARD).write_text(self._card(), encoding="utf-8")

    def _card(self) -> str:
        settings = self.settings
        told = {
            Grouping.LABELS: "and each cluster is a class",
            Grouping.NESTED: "and several clusters make a class",
        }
        return _CARD.format(
            private=PRIVATE,
            files=self._files(),
            version=__version__,
            weights=_WEIGHTS_LICENCE if self.surrogate else "",
            settings=settings,
            clusters=len(self.delta),
            units=255 * settings.eps,
            told=told.get(settings.by, "chosen by the features of a network, blind to classes"),
            channels="grey" if settings.channels == 1 else "colour",
            classes=", ".join(settings.classes),
        )

    def _files(self) -> str:
        weights = f", `{WEIGHTS}` (the network {self.settings.model} that sees the images)"
        return f"`{TENSORS}`, `{SETTINGS}`{weights if self.surrogate else ''}"

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load the protector that `save` wrote.

        Raises:
            UserError: a file is missing, damaged, or does not agree with the others.
        """
        path = folder / SETTINGS
        try:
            settings = ProtectorSettings.model_validate(read_json(path, dict))
        except ValidationError as error:
            raise UserError(
                f"{path}: not the settings of a protector ({first_problem(error)}); export again"
            ) from None
        tensors, _ = read_tensors(folder / TENSORS)
        require_tensors(
            folder / TENSORS,
            tensors,
            perturbations=(4, torch.float32),
            centres=(2, torch.float32),
            labels=(1, torch.int64),
        )
        delta = tensors["perturbations"]
        shape = (len(tensors["centres"]), settings.channels, settings.size, settings.size)
        if tuple(delta.shape) != shape or len(tensors["labels"]) != len(delta):
            raise UserError(f"{folder / TENSORS}: does not agree with {SETTINGS}; export again")
        surrogate = _load_surrogate(folder / WEIGHTS, settings) if settings.model else None
        labels = tensors["labels"].numpy()
        return cls(settings, delta.numpy(), tensors["centres"], labels, surrogate)

    @classmethod
    def of_run(cls, folder: Path, *, place: str | None = None, download: bool = False) -> Self:
        """Make the protector of a finished run, whose images may have moved to `place`.

        Raises:
            UserError: the run is not finished, or its data set has changed.
        """
        config, run = load_run(folder, place)
        data = dataset_of_run(config, run, download=download)
        perturbations = load_perturbations(config, run, data)
        by, size = config.clusters.by, config.data.size
        settings = ProtectorSettings(
            title=config.data.shown_as,
            by=by,
            eps=perturbations.eps,
            size=size,
            channels=data.train.images.shape[1],
            classes=data.classes,
        )
        labels = np.full(len(perturbations.delta), -1)
        if by != Grouping.FEATURES:
            labels[perturbations.assignment] = data.train.labels
        surrogate = None
        if by != Grouping.LABELS:
            run.require_weights(config)
            surrogate = surrogate_of_run(config, data, torch.device("cpu"))
            network = {
                "model": config.surrogate.model,
                "args": config.surrogate.args,
                "stem": config.surrogate.stem,
                "seen_size": surrogate_spec(config.surrogate, 3, size).seen_size,
            }
            settings = settings.model_copy(update=network)
        centres = Clusters.load(run.clusters).centres
        return cls(settings, perturbations.delta, centres, labels, surrogate)


def open_protector(folder: Path, *, place: str | None = None, download: bool = False) -> Protector:
    """Open an exported protector, or make that of a finished run, whose images may have moved.

    Raises:
        UserError: `folder` contains neither, or as for both.
    """
    if (folder / SETTINGS).exists():
        return Protector.load(folder)
    if not RunFiles(folder).config.exists():
        raise UserError(f"{folder}: neither a run nor an exported protector; name one of them")
    return Protector.of_run(folder, place=place, download=download)


def _load_surrogate(path: Path, settings: ProtectorSettings) -> Normalised:
    """Load the surrogate of `settings` with the weights in `path`."""
    assert settings.model is not None
    spec = NetworkSpec(
        settings.model,
        settings.channels,
        settings.size,
        settings.args,
        settings.stem,
        settings.seen_size,
    )
    model, _ = load_body(path, spec)
    frozen: Normalised = model.eval().requires_grad_(False)
    return frozen.to(memory_format=torch.channels_last)
