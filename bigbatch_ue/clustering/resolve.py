"""The settings of clusters that are left to the images, decided without grouping any."""

import numpy as np

from bigbatch_ue.batching.step_plan import even_sizes
from bigbatch_ue.config.names import Grouping
from bigbatch_ue.config.schema import Config
from bigbatch_ue.config.sections import ClustersConfig
from bigbatch_ue.data.source import Labels
from bigbatch_ue.runtime.errors import UserError

DEFAULT_COUNT = 10


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
    count = sum(clusters_of_class(by, clusters.per_class, int(size)) for size in sizes)
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
    parts = (
        (int(size), clusters_of_class(config.by, config.per_class, int(size))) for size in sizes
    )
    return [size for images, count in parts for size in even_sizes(images, count)]


def clusters_of_class(by: Grouping, per_class: int, images: int) -> int:
    """Return the number of clusters of a class of so many images."""
    return 1 if by == Grouping.LABELS else min(per_class, images)


def _with_clusters(config: Config, by: Grouping, count: int) -> Config:
    clusters = config.clusters.model_copy(update={"by": by, "count": count})
    return config.model_copy(update={"clusters": clusters})
