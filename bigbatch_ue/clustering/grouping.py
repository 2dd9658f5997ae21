"""The grouping of images into clusters: by features, by labels, or by features inside a class."""

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor

from bigbatch_ue.batching.step_plan import even_sizes
from bigbatch_ue.clustering.clusters import Clusters
from bigbatch_ue.clustering.target_map import target_map
from bigbatch_ue.config.names import Grouping
from bigbatch_ue.config.schema import Config
from bigbatch_ue.config.sections import ClustersConfig
from bigbatch_ue.data.source import Labels
from bigbatch_ue.reporting.words import counted
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.randomness import Purpose, draw

DEFAULT_COUNT = 10
_TINY = 20
"""Clusters smaller than the mean size divided by this are reported."""


def resolve_clusters(config: Config, labels: Labels) -> Config:
    """Decide what `config.clusters` leaves to the images: `by` and `count`.

    Args:
        config: its `clusters` may have `auto` settings.
        labels: int64 [N], the class of each train image.

    Returns:
        `config` without `auto` in these two. It resolves to itself.

    Raises:
        UserError: the images have a single class, or another number of clusters than `count`.
    """
    clusters = config.clusters
    classes, sizes = np.unique(labels, return_counts=True)
    by = clusters.by
    if by == Grouping.AUTO:
        by = Grouping.LABELS if len(classes) > 1 else Grouping.FEATURES
    if by == Grouping.FEATURES:
        return without_labels(config)
    if len(classes) < 2:
        raise UserError(
            f"clusters.by={by}: needs two classes or more, and the train images have "
            f"{len(classes)}; set clusters.by=features"
        )
    count = sum(_wanted(by, clusters.per_class, int(size)) for size in sizes)
    if clusters.count not in ("auto", count):
        raise UserError(
            f"clusters.count={clusters.count}: the {len(classes)} classes of the train images give "
            f"{count} clusters with clusters.by={by}; leave out clusters.count, or set "
            "clusters.by=features"
        )
    return _with_clusters(config, by, count)


def without_labels(config: Config) -> Config:
    """Resolve `config.clusters` for images of unknown labels: as many clusters as `features` has.

    For plans and measurements, in which only the number of clusters counts.
    """
    count = DEFAULT_COUNT if config.clusters.count == "auto" else config.clusters.count
    return _with_clusters(config, Grouping.FEATURES, count)


def expected_sizes(config: ClustersConfig, labels: Labels) -> list[int]:
    """Return the number of images in each cluster, as far as it is known before the grouping.

    Classes as clusters have their real sizes. Where k-means decides, it is taken to divide the
    images evenly: those of each class, or all of them.

    Args:
        config: resolved by `resolve_clusters`.
        labels: int64 [N], the class of each image.
    """
    if config.by == Grouping.FEATURES:
        return even_sizes(len(labels), config.generators)
    _, sizes = np.unique(labels, return_counts=True)
    parts = ((int(size), _wanted(config.by, config.per_class, int(size))) for size in sizes)
    return [size for images, count in parts for size in even_sizes(images, count)]


def make_clusters(features: Tensor, labels: Labels, config: ClustersConfig, seed: int) -> Clusters:
    """Group images into clusters, and choose the target of each cluster.

    k-means uses a single thread, because the order of additions in threads would change the last
    bits.

    Args:
        features: float [N, d].
        labels: int64 [N], the class of each image; not used with `by: features`.
        config: resolved by `resolve_clusters`. Above `minibatch_above` images MiniBatchKMeans is
            used: less memory and time, but a slightly worse optimum.
        seed: decides the initial centres and the target map.

    Returns:
        Clusters, none of them empty. A warning names those below a twentieth of the mean size.

    Raises:
        UserError: there are more clusters than images or distinct features, or the features are
            not finite.
    """
    if config.generators > len(features):
        raise UserError(
            f"clusters.count={config.count}: exceeds the {counted(len(features), 'image')}; "
            "lower it"
        )
    if not torch.stack(features.aminmax()).isfinite().all():  # needs no other [N, d]
        raise UserError("surrogate.weights: the features are not finite; choose other weights")
    if config.by == Grouping.FEATURES:
        assignment, centres = _k_means(features, config.generators, config, seed)
        group = np.arange(len(centres))
    else:
        assignment, centres, group = _inside_classes(features, labels, config, seed)
    clusters = Clusters(
        torch.from_numpy(assignment),
        torch.from_numpy(centres),
        torch.from_numpy(target_map(config.target_map, centres, group, seed)),
    )
    _check_sizes(clusters.sizes, config.by)
    return clusters


def _with_clusters(config: Config, by: Grouping, count: int) -> Config:
    clusters = config.clusters.model_copy(update={"by": by, "count": count})
    return config.model_copy(update={"clusters": clusters})


def _wanted(by: Grouping, per_class: int, images: int) -> int:
    """Return the number of clusters of a class of so many images."""
    return 1 if by == Grouping.LABELS else min(per_class, images)


def _inside_classes(
    features: Tensor, labels: Labels, config: ClustersConfig, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Cluster each class by itself; return assignment [N], centres [p, d] and classes [p]."""
    assignment = np.empty(len(labels), np.int64)
    centres: list[NDArray[np.float32]] = []
    group: list[int] = []
    for each in np.unique(labels):
        members = np.flatnonzero(labels == each)
        wanted = _wanted(config.by, config.per_class, len(members))
        own = features[torch.from_numpy(members)]
        part, part_centres = _k_means(own, wanted, config, seed, int(each))
        assignment[members] = len(group) + part
        centres.append(part_centres)
        group += [int(each)] * wanted
    return assignment, np.concatenate(centres), np.array(group)


def _k_means(
    features: Tensor, count: int, config: ClustersConfig, seed: int, label: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the cluster of each image [N] and the centres [count, d]."""
    from sklearn.cluster import KMeans, MiniBatchKMeans  # a second to import
    from sklearn.exceptions import ConvergenceWarning

    method = MiniBatchKMeans if len(features) > config.minibatch_above else KMeans
    state = int(draw(seed, Purpose.KMEANS, label).integers(2**32))
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        kmeans = method(count, n_init=config.n_init, random_state=state).fit(features.numpy())
    return kmeans.labels_.astype(np.int64), kmeans.cluster_centers_.astype(np.float32)


def _check_sizes(sizes: Tensor, by: Grouping) -> None:
    """Reject empty clusters and warn of tiny ones."""
    setting = "clusters.per_class" if by == Grouping.NESTED else "clusters.count"
    empty = int((sizes == 0).sum())
    if empty:
        raise UserError(
            f"{setting}: {empty} of {counted(len(sizes), 'cluster')} empty, because too many "
            "images are alike; lower it"
        )
    minimum = max(2, int(sizes.sum()) / (_TINY * len(sizes)))
    tiny = sizes[sizes < minimum].tolist()
    if tiny:
        remedy = "add images" if by == Grouping.LABELS else f"consider lowering {setting}"
        warnings.warn(
            f"clusters: {len(tiny)} of {len(sizes)} with very few images ({tiny}), whose "
            f"perturbations learn little; {remedy}",
            stacklevel=3,
        )
