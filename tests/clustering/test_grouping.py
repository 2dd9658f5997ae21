"""The grouping of images: by features, by labels, and inside each class."""

import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from bigbatch_ue.clustering.clusters import Clusters
from bigbatch_ue.clustering.grouping import make_clusters
from bigbatch_ue.clustering.resolve import expected_sizes, resolve_clusters
from bigbatch_ue.config.load import load_config
from bigbatch_ue.config.names import Grouping
from bigbatch_ue.config.schema import Config
from bigbatch_ue.data.source import Labels
from bigbatch_ue.runtime.errors import UserError

DIGITS = load_digits()
LABELS: Labels = DIGITS.target[:500].astype(np.int64)


@pytest.fixture(scope="module")
def features() -> Tensor:
    """The pixels of 500 real digits."""
    return torch.from_numpy(DIGITS.data[:500]).float()


def cluster(
    features: Tensor, seed: int = 0, labels: Labels = LABELS, **settings: object
) -> Clusters:
    config = Config.model_validate({"clusters": settings})
    resolved = resolve_clusters(config, labels[: len(features)])
    return make_clusters(features, labels[: len(features)], resolved.clusters, seed)


def test_digits_fall_into_clusters_of_their_nearest_centre(features: Tensor) -> None:
    clusters = cluster(features, count=10)
    assert clusters.assignment.shape == (500,)
    assert clusters.assignment.dtype == torch.int64
    assert clusters.centres.shape == (10, 64)
    assert clusters.centres.dtype == torch.float32
    assert clusters.sizes.sum() == 500
    assert clusters.sizes.min() > 0
    nearest = torch.cdist(features, clusters.centres).argmin(1)
    assert torch.equal(nearest, clusters.assignment)


@pytest.mark.parametrize(
    ("settings", "certain"),
    [({"by": "labels"}, True), ({"by": "nested", "n_init": 1}, False), ({"count": 7}, False)],
)
def test_the_expected_sizes_are_those_of_the_clusters_as_far_as_they_are_known(
    features: Tensor, settings: dict[str, object], certain: bool
) -> None:
    config = resolve_clusters(Config.model_validate({"clusters": settings}), LABELS).clusters
    expected, sizes = expected_sizes(config, LABELS), cluster(features, **settings).sizes.tolist()
    assert (len(expected), sum(expected)) == (len(sizes), sum(sizes))
    assert (expected == sizes) == certain


def test_target_is_the_centre_of_the_permuted_cluster(features: Tensor) -> None:
    clusters = cluster(features, count=4, target_map="shift")
    assert clusters.permutation.tolist() == [1, 2, 3, 0]
    assert torch.equal(clusters.targets[3], clusters.centres[0])


@pytest.mark.parametrize(
    "settings",
    [
        {"count": 8, "n_init": 2},
        {"count": 8, "n_init": 2, "minibatch_above": 100},
        {"by": "nested", "per_class": 3, "n_init": 2},
    ],
)
def test_seed_decides_clusters(features: Tensor, settings: dict[str, object]) -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    one, again, other = (cluster(features, seed, **settings) for seed in (5, 5, 6))
    for name in ("assignment", "centres", "permutation"):
        assert torch.equal(getattr(one, name), getattr(again, name))
    assert not torch.equal(one.permutation, other.permutation)


def test_many_images_are_clustered_by_minibatches(features: Tensor) -> None:
    exact = cluster(features, count=8, n_init=2, minibatch_above=500)
    cheap = cluster(features, count=8, n_init=2, minibatch_above=499)
    assert not torch.equal(exact.centres, cheap.centres)
    assert inertia(features, cheap) < 1.3 * inertia(features, exact)


def inertia(features: Tensor, clusters: Clusters) -> float:
    return float((features - clusters.centres[clusters.assignment]).square().sum())


def test_by_labels_each_class_is_a_cluster(features: Tensor) -> None:
    clusters = cluster(features, by="labels")
    assert torch.equal(clusters.assignment, torch.from_numpy(LABELS))
    for label in range(10):
        mean = features[torch.from_numpy(label == LABELS)].mean(dim=0)
        torch.testing.assert_close(clusters.centres[label], mean)


def test_a_class_without_train_images_gets_no_cluster(features: Tensor) -> None:
    kept = LABELS != 3
    clusters = cluster(features[torch.from_numpy(kept)], labels=LABELS[kept], by="labels")
    assert clusters.sizes.shape == (9,)
    assert clusters.sizes.min() > 0


def test_nested_clusters_keep_within_classes_and_aim_at_other_classes(features: Tensor) -> None:
    clusters = cluster(features, by="nested", per_class=3)
    assert clusters.centres.shape == (30, 64)
    group = clusters.assignment.numpy() // 3
    assert (group == LABELS).all()
    classes = np.arange(30) // 3
    assert (classes[clusters.permutation.numpy()] != classes).all()


def test_a_class_of_few_images_has_no_more_clusters_than_images() -> None:
    labels = np.array([0] * 20 + [1] * 2, np.int64)
    features = torch.from_numpy(np.random.default_rng(0).normal(size=(22, 4))).float()
    with pytest.warns(UserWarning, match="very few images"):
        clusters = cluster(features, labels=labels, by="nested", per_class=3)
    assert clusters.sizes.shape == (5,)


@pytest.mark.parametrize(
    ("settings", "labels", "by", "count"),
    [
        ({}, [0, 1, 2], "labels", 3),
        ({}, [0, 0, 0], "features", 10),
        ({"count": 7}, [0, 1, 2], "features", 7),
        ({"by": "features"}, [0, 1], "features", 10),
        ({"by": "nested", "per_class": 2}, [0, 0, 0, 1, 1, 2], "nested", 5),
        ({"by": "labels", "count": 2}, [0, 1], "labels", 2),
    ],
)
def test_images_decide_what_is_left_to_them(
    settings: dict[str, object], labels: list[int], by: str, count: int
) -> None:
    config = Config.model_validate({"clusters": settings})
    resolved = resolve_clusters(config, np.array(labels))
    assert (resolved.clusters.by, resolved.clusters.count) == (Grouping(by), count)
    assert resolve_clusters(resolved, np.array(labels)) == resolved


@pytest.mark.parametrize(
    ("settings", "labels", "message"),
    [
        ({"by": "labels"}, [0, 0], "clusters.by=labels: needs two classes or more"),
        ({"by": "nested"}, [0, 0], "clusters.by=nested: needs two classes or more"),
        (
            {"by": "labels", "count": 5},
            [0, 1],
            "clusters.count=5: the 2 classes .* give 2 clusters",
        ),
    ],
)
def test_clusters_that_the_labels_do_not_give_are_an_error(
    settings: dict[str, object], labels: list[int], message: str
) -> None:
    config = Config.model_validate({"clusters": settings})
    with pytest.raises(UserError, match=message):
        resolve_clusters(config, np.array(labels))


def test_configurations_from_before_there_was_a_choice_keep_their_digest() -> None:
    old = load_config(settings=[{"clusters": {"count": 10}}]).answer()
    assert old["clusters"].keys() == {"count", "n_init", "minibatch_above", "target_map"}
    assert "size" not in old["surrogate"]
    assert "robust" not in old["augment"]


def test_more_clusters_than_images_is_an_error(features: Tensor) -> None:
    with pytest.raises(UserError, match=r"clusters\.count=6: exceeds the 5 images; lower it"):
        cluster(features[:5], count=6)


def test_too_few_distinct_images_is_an_error(features: Tensor) -> None:
    alike = features[:3].repeat(10, 1)
    with pytest.raises(UserError, match=r"clusters\.count: \d of 5 clusters empty.*lower it"):
        cluster(alike, count=5)
    labels = np.repeat(np.int64([0, 1]), 15)
    with pytest.raises(UserError, match=r"clusters\.per_class: \d of 10 clusters empty"):
        cluster(alike, labels=labels, by="nested", per_class=5)


def test_features_that_are_not_finite_are_an_error(features: Tensor) -> None:
    broken = features.clone()
    broken[3, 0] = math.nan
    with pytest.raises(UserError, match="not finite"):
        cluster(broken, count=2)


def test_tiny_cluster_is_named_in_a_warning(features: Tensor) -> None:
    outlier = torch.cat([features[:50], torch.full((1, 64), 1e4)])
    with pytest.warns(UserWarning, match=r"clusters: 1 of 3 with very few images \(\[1\]\)"):
        cluster(outlier, count=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cluster(features[:200], count=2)
