"""Clusters of features, and target maps without a fixed point."""

import math
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from bigbatch_ue.config.sections import ClustersConfig
from bigbatch_ue.files.tensor_files import read_tensors, write_tensors
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.training.clusters import Clusters, cluster_features, target_map


@pytest.fixture(scope="module")
def features() -> Tensor:
    """The pixels of 500 real digits."""
    return torch.from_numpy(load_digits().data[:500]).float()


def test_digits_fall_into_clusters_of_their_nearest_centre(features: Tensor) -> None:
    clusters = cluster_features(features, ClustersConfig(count=10), seed=0)
    assert clusters.assignment.shape == (500,)
    assert clusters.assignment.dtype == torch.int64
    assert clusters.centres.shape == (10, 64)
    assert clusters.centres.dtype == torch.float32
    assert clusters.sizes.sum() == 500
    assert clusters.sizes.min() > 0
    nearest = torch.cdist(features, clusters.centres).argmin(1)
    assert torch.equal(nearest, clusters.assignment)


def test_target_is_the_centre_of_the_permuted_cluster(features: Tensor) -> None:
    clusters = cluster_features(features, ClustersConfig(count=4, target_map="shift"), seed=0)
    assert clusters.permutation.tolist() == [1, 2, 3, 0]
    assert torch.equal(clusters.targets[3], clusters.centres[0])


@pytest.mark.parametrize("above", [50_000, 100])
def test_seed_decides_clusters(features: Tensor, above: int) -> None:
    settings = ClustersConfig(count=8, n_init=2, minibatch_above=above)
    torch.manual_seed(0)
    np.random.seed(0)
    one, again, other = (cluster_features(features, settings, seed) for seed in (5, 5, 6))
    for name in ("assignment", "centres", "permutation"):
        assert torch.equal(getattr(one, name), getattr(again, name))
    assert not torch.equal(one.assignment, other.assignment)


def test_many_images_are_clustered_by_minibatches(features: Tensor) -> None:
    settings = {"count": 8, "n_init": 2}
    exact = cluster_features(features, ClustersConfig(**settings, minibatch_above=500), seed=0)
    cheap = cluster_features(features, ClustersConfig(**settings, minibatch_above=499), seed=0)
    assert not torch.equal(exact.centres, cheap.centres)
    assert inertia(features, cheap) < 1.3 * inertia(features, exact)


def inertia(features: Tensor, clusters: Clusters) -> float:
    return float((features - clusters.centres[clusters.assignment]).square().sum())


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_derangement_has_no_fixed_point(count: int) -> None:
    for seed in range(300):
        permutation = target_map(count, "derangement", seed)
        assert sorted(permutation) == list(range(count))
        assert (permutation != np.arange(count)).all()


def test_derangements_are_uniform() -> None:
    draws = 1800
    counts = Counter(tuple(target_map(4, "derangement", seed)) for seed in range(draws))
    assert len(counts) == 9
    deviation = math.sqrt(draws / 9 * 8 / 9)
    assert all(abs(count - draws / 9) < 4 * deviation for count in counts.values())


def test_more_clusters_than_images_is_an_error(features: Tensor) -> None:
    with pytest.raises(UserError, match=r"clusters\.count=6: exceeds the 5 images; lower it"):
        cluster_features(features[:5], ClustersConfig(count=6), seed=0)


def test_too_few_distinct_images_is_an_error(features: Tensor) -> None:
    with pytest.raises(UserError, match=r"clusters\.count=5: 2 cluster\(s\) are empty.*lower it"):
        cluster_features(features[:3].repeat(10, 1), ClustersConfig(count=5), seed=0)


def test_features_that_are_not_finite_are_an_error(features: Tensor) -> None:
    broken = features.clone()
    broken[3, 0] = math.nan
    with pytest.raises(UserError, match="not finite"):
        cluster_features(broken, ClustersConfig(count=2), seed=0)


def test_tiny_cluster_is_named_in_a_warning(features: Tensor) -> None:
    outlier = torch.cat([features[:50], torch.full((1, 64), 1e4)])
    with pytest.warns(
        UserWarning, match=r"clusters\.count=3: 1 cluster\(s\) have very few images \(\[1\]\)"
    ):
        cluster_features(outlier, ClustersConfig(count=3), seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cluster_features(features[:200], ClustersConfig(count=2), seed=0)


def test_file_round_trip(features: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "clusters.safetensors"
    clusters = cluster_features(features, ClustersConfig(count=3), seed=0)
    clusters.save(path, {"seed": 0})
    loaded = Clusters.load(path)
    for name in ("assignment", "centres", "permutation"):
        assert torch.equal(getattr(loaded, name), getattr(clusters, name))
    assert read_tensors(path)[1] == {"seed": 0}


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("assignment", torch.tensor([0, 1, 3]), r"'assignment' has clusters outside 0 \.\.\. 2"),
        ("assignment", torch.tensor([0, -1, 2]), "'assignment' has clusters outside"),
        ("assignment", torch.tensor([0.0, 1.0]), "'assignment' is 1-D torch.float32"),
        ("permutation", torch.tensor([1, 1, 0]), "'permutation' is not a permutation"),
        ("permutation", torch.tensor([1, 0]), "'permutation' is not a permutation"),
        ("centres", torch.zeros(3), "'centres' is 1-D"),
        ("centres", None, "no tensor 'centres'"),
    ],
)
def test_file_with_invalid_clusters_is_an_error(
    name: str, wrong: Tensor | None, message: str, tmp_path: Path
) -> None:
    tensors = {
        "assignment": torch.tensor([0, 1, 2]),
        "centres": torch.zeros(3, 4),
        "permutation": torch.tensor([1, 2, 0]),
    }
    changed = {**tensors, name: wrong}
    path = tmp_path / "clusters.safetensors"
    write_tensors(path, {key: value for key, value in changed.items() if value is not None}, {})
    with pytest.raises(UserError, match=message):
        Clusters.load(path)


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        Clusters.load(tmp_path / "none.safetensors")
