"""The artefact of the clusters: written, read, and checked."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from bigbatch_ue.clustering.clusters import Clusters
from bigbatch_ue.files.tensor_files import read_tensors, write_tensors
from bigbatch_ue.runtime.errors import UserError


def test_file_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "clusters.safetensors"
    clusters = Clusters(torch.tensor([0, 1, 2, 1]), torch.rand(3, 4), torch.tensor([1, 2, 0]))
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
