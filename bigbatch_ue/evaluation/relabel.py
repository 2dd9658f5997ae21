"""Other labels: the classes merged into superclasses, for train and test images alike.

This is the label-agnostic setting of Zhang et al. (CVPR 2023, arXiv 2301.01217): those who protect
images do not know the labels that scrapers will use.
"""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from bigbatch_ue.data.decoded import DataSet, ImageSet
from bigbatch_ue.files.paths import composed, expand_path
from bigbatch_ue.files.yaml_files import TextLoader, read_yaml
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.randomness import Purpose, draw

_MAX_NAME_LENGTH = 60

Features = Callable[[], NDArray[np.floating[Any]]]


def relabel(labels: str, data: DataSet, features: Features, seed: int) -> DataSet:
    """Return `data` with other labels and the same images.

    Args:
        labels: `own`; `map:FILE`, a YAML or JSON file that maps every class to a new one;
            `random:M`, M random superclasses whose numbers of classes differ by at most one;
            `prototypes:M`, M superclasses by k-means of the classes' mean features.
        data: the data set.
        features: returns float [N, d] of the train images, in their order; called for prototypes.
        seed: decides the superclasses.

    Returns:
        The data set with its new classes, in the order in which the old classes first name them. A
        superclass is named after its members, such as `cat+dog`. For `own`, `data` itself.

    Raises:
        UserError: the file is not such a mapping, the number of superclasses is impossible, a class
            has no train images, or the features are not finite.
    """
    kind, _, value = labels.partition(":")
    match kind:
        case "own":
            return data
        case "map":
            return _rename(data, _read_map(expand_path(value), data.classes))
        case "random":
            superclasses = _random_superclasses(len(data.classes), _count(labels, data), seed)
        case _:
            count = _count(labels, data)
            superclasses = _prototype_superclasses(data, features, count, seed)
    return _rename(data, _superclass_names(data.classes, superclasses))


def _rename(data: DataSet, names: list[str]) -> DataSet:
    """Rename each class; classes with the same new name become one."""
    classes = list(dict.fromkeys(names))
    new_labels = np.array([classes.index(name) for name in names])

    def rename(images: ImageSet) -> ImageSet:
        return replace(images, labels=new_labels[images.labels])

    return replace(data, classes=classes, train=rename(data.train), test=rename(data.test))


def _read_map(path: Path, classes: list[str]) -> list[str]:
    """Read the new name of each class from a file."""
    content = read_yaml(path, TextLoader)
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: not a mapping of classes; write `old class: new class`, one line per class"
        )
    new_names = {composed(str(old)): composed(str(new)) for old, new in content.items() if new}
    for problem, names, remedy in (
        ("no new name for", [name for name in classes if name not in new_names], "add one"),
        ("unknown classes:", [name for name in new_names if name not in classes], "remove them"),
    ):
        if names:
            raise UserError(f"{path}: {problem} {', '.join(names[:5])}; {remedy}")
    if len(set(new_names.values())) < 2:
        raise UserError(f"{path}: leaves a single class; give at least two new names")
    return [new_names[name] for name in classes]


def _count(labels: str, data: DataSet) -> int:
    """Return the number of superclasses in `labels`."""
    count = int(labels.partition(":")[2])
    if not 2 <= count <= len(data.classes):
        raise UserError(
            f"evaluation.labels={labels}: {data.name} has {len(data.classes)} classes; "
            f"choose 2 to {len(data.classes)} superclasses"
        )
    return count


def _random_superclasses(classes: int, count: int, seed: int) -> list[int]:
    order = draw(seed, Purpose.LABELS).permutation(classes)
    return (order % count).tolist()  # type: ignore[no-any-return]


def _prototype_superclasses(data: DataSet, features: Features, count: int, seed: int) -> list[int]:
    prototypes = _prototypes(data, features)
    state = int(draw(seed, Purpose.LABELS).integers(2**32))
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        superclasses = KMeans(count, n_init=10, random_state=state).fit_predict(prototypes).tolist()
    if len(set(superclasses)) < count:
        raise UserError(
            f"evaluation.labels=prototypes:{count}: too many classes look alike; "
            "choose fewer superclasses"
        )
    return superclasses  # type: ignore[no-any-return]


def _prototypes(data: DataSet, features: Features) -> NDArray[np.floating[Any]]:
    """Return the mean feature of each class, [classes, d]."""
    labels, classes = data.train.labels, range(len(data.classes))
    absent = sorted(set(classes) - set(labels.tolist()))
    if absent:
        raise UserError(
            f"evaluation.labels: class {data.classes[absent[0]]} has no train image, and so no "
            "prototype; raise data.limit, or use random:M"
        )
    values = features()
    if not np.isfinite(values).all():
        raise UserError("surrogate.weights: the features are not finite; choose other weights")
    return np.stack([values[labels == label].mean(0) for label in classes])


def _superclass_names(classes: list[str], superclasses: list[int]) -> list[str]:
    """Return the name of each class's superclass: its members, shortened; numbered if alike."""
    members: dict[int, list[str]] = {}
    for name, superclass in zip(classes, superclasses, strict=True):
        members.setdefault(superclass, []).append(name)
    names = {superclass: _shorten("+".join(these)) for superclass, these in members.items()}
    if len(set(names.values())) < len(names):
        names = {superclass: f"{superclass} {name}" for superclass, name in names.items()}
    return [names[superclass] for superclass in superclasses]


def _shorten(name: str) -> str:
    return name if len(name) <= _MAX_NAME_LENGTH else f"{name[: _MAX_NAME_LENGTH - 3]}..."
