"""Labels of a scraper's own: the classes grouped anew, for train and test images alike.

The label-agnostic setting of Zhang et al. (CVPR 2023, arXiv 2301.01217): who protects images does
not know with what labels they will be used.
"""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from bigbatch_ue.data.decoded import DataSet, ImageSet
from bigbatch_ue.files.formats import read_yaml
from bigbatch_ue.files.paths import expand_path
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.randomness import Purpose, draw

_LONGEST = 60


def relabel(
    labels: str, data: DataSet, features: Callable[[], NDArray[np.floating[Any]]], seed: int
) -> DataSet:
    """`data` under other labels, its images untouched.

    Args:
        labels: `own`; `map:FILE`, a YAML or JSON file from every class's name to a new one;
            `random:M`, M groups of classes whose sizes differ by at most one; `prototypes:M`,
            k-means of the classes' mean features.
        data: what is relabelled.
        features: gives float [N, d] of the train images, in their order; called for prototypes.
        seed: decides the groups.

    Returns:
        The set with its new classes, in order of first appearance over the old ones; a group is
        named after its members, `cat+dog`. For `own`, `data` itself.

    Raises:
        UserError: a file that is no such mapping, a number of groups that is impossible, a class
            without train images or features that are not finite.
    """
    kind, _, value = labels.partition(":")
    match kind:
        case "own":
            return data
        case "map":
            return _with_names(data, _mapped(expand_path(value), data.classes))
        case "random":
            groups = _random_groups(len(data.classes), _count(labels, data), seed)
        case _:
            groups = _nearby_groups(data, features, _count(labels, data), seed)
    return _with_names(data, _group_names(data.classes, groups))


def _with_names(data: DataSet, names: list[str]) -> DataSet:
    """`data` with each class renamed; classes of one name become one."""
    classes = list(dict.fromkeys(names))
    index = np.array([classes.index(name) for name in names])

    def half(images: ImageSet) -> ImageSet:
        return replace(images, labels=index[images.labels])

    return replace(data, classes=classes, train=half(data.train), test=half(data.test))


def _mapped(path: Path, classes: list[str]) -> list[str]:
    """The new name of each class, as the file says."""
    content = read_yaml(path, yaml.BaseLoader)  # all are strings
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected `old class: new class`, a line for each class")
    given = {old: str(new) for old, new in content.items() if new}
    for problem, names in (
        ("gives no new name to", [name for name in classes if name not in given]),
        ("names classes that are not there:", [name for name in given if name not in classes]),
    ):
        if names:
            raise UserError(f"{path}: {problem} {', '.join(names[:5])}")
    if len(set(given.values())) < 2:
        raise UserError(f"{path}: leaves a single class; give at least two new names")
    return [given[name] for name in classes]


def _count(labels: str, data: DataSet) -> int:
    count = int(labels.partition(":")[2])
    if not 2 <= count <= len(data.classes):
        raise UserError(
            f"evaluation.labels={labels}: {data.name} has {len(data.classes)} classes, so from 2 "
            f"to {len(data.classes)} groups can be made of them"
        )
    return count


def _random_groups(classes: int, count: int, seed: int) -> list[int]:
    order = draw(seed, Purpose.LABELS).permutation(classes)
    return (order % count).tolist()  # type: ignore[no-any-return]


def _nearby_groups(
    data: DataSet, features: Callable[[], NDArray[np.floating[Any]]], count: int, seed: int
) -> list[int]:
    prototypes = _prototypes(data, features)
    state = int(draw(seed, Purpose.LABELS).integers(2**32))
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = KMeans(count, n_init=10, random_state=state).fit_predict(prototypes).tolist()
    if len(set(found)) < count:
        raise UserError(f"prototypes:{count}: too many classes look alike; ask for fewer groups")
    return found  # type: ignore[no-any-return]


def _prototypes(
    data: DataSet, features: Callable[[], NDArray[np.floating[Any]]]
) -> NDArray[np.floating[Any]]:
    """The mean feature of each class, [classes, d]."""
    labels, classes = data.train.labels, range(len(data.classes))
    absent = sorted(set(classes) - set(labels.tolist()))
    if absent:
        raise UserError(
            f"class {data.classes[absent[0]]} has no train image, so it has no prototype; raise "
            "data.limit, or take random:M"
        )
    found = features()
    if not np.isfinite(found).all():
        raise UserError("the features are not finite: choose other surrogate.weights")
    return np.stack([found[labels == label].mean(0) for label in classes])


def _group_names(classes: list[str], groups: list[int]) -> list[str]:
    """The name of the group of each class: its members, cut when long; numbered if alike."""
    members: dict[int, list[str]] = {}
    for name, group in zip(classes, groups, strict=True):
        members.setdefault(group, []).append(name)
    names = {group: _shortened("+".join(its)) for group, its in members.items()}
    if len(set(names.values())) < len(names):
        names = {group: f"{group} {name}" for group, name in names.items()}
    return [names[group] for group in groups]


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 3]}..."
