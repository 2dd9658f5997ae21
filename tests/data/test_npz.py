"""Images in an npz file, and whatever can be wrong with it."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bigbatch_ue.config.sections import DataConfig
from bigbatch_ue.data.decoded import prepare_dataset
from bigbatch_ue.data.npz import Npz
from bigbatch_ue.runtime.errors import UserError
from tests.conftest import MakeNpz
from tests.helpers.sources import images, opened
from tests.soak.damage import Bomb, Claim, LinkMember, Member


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_npz_yields_the_arrays(make_npz: MakeNpz, tmp_path: Path, channels: tuple[int]) -> None:
    path = make_npz(channels=channels)
    source = opened(f"npz:{path}", tmp_path)
    assert isinstance(source, Npz)
    assert source.path == path
    assert source.channels == (channels or (1,))[0]
    assert source.classes == ["0", "1", "2"]
    arrays = np.load(path)
    expected = arrays["train_images"].reshape(12, 10, 9, -1).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(images(source), expected)
    split = source.split("test")
    assert split.names == ["00000", "00001", "00002", "00003", "00004", "00005"]
    assert split.labels.dtype == np.int64
    assert split.labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_npz_of_another_memory_order_and_flat_labels(make_npz: MakeNpz, tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(256, size=(12, 7, 5, 3), dtype=np.uint8)
    path = make_npz(
        channels=(3,), train_images=np.asfortranarray(pixels), train_labels=np.zeros(12, np.int16)
    )
    source = opened(f"npz:{path}", tmp_path)
    np.testing.assert_array_equal(images(source), pixels.transpose(0, 3, 1, 2))
    assert source.split("train").labels.tolist() == [0] * 12


BAD_ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "missing key": ({"test_labels": None}, "contains no array 'test_labels'"),
    "float images": ({"train_images": np.zeros((12, 9, 9))}, "'train_images' is float64"),
    "float labels": ({"train_labels": np.zeros(12)}, "'train_labels' is float64"),
    "negative label": ({"test_labels": np.full(6, -1)}, "'test_labels' is int64, .* from 0"),
    "large label": ({"test_labels": np.full(6, 10**12)}, "label 1000000000000 is too large"),
    "flat images": ({"train_images": np.zeros((12, 81), np.uint8)}, "'train_images' has shape"),
    "channels first": ({"train_images": np.zeros((12, 3, 9, 9), np.uint8)}, "C of 1 or 3"),
    "mixed channels": ({"test_images": np.zeros((6, 9, 9, 3), np.uint8)}, "'test_images' 3; make"),
    "no image": ({"test_images": np.zeros((0, 9, 9), np.uint8)}, "'test_images' .* at least one"),
    "too few labels": ({"train_labels": np.zeros(11, int)}, r"'train_labels' .* expected \[12\]"),
    "huge label": (
        {"train_labels": np.full(12, 2**64 - 1, np.uint64)},
        "'train_labels' contains 1844",
    ),
    "multi-label": ({"train_labels": np.zeros((12, 4), int)}, "'train_labels' is multi-label"),
    "objects": ({"train_labels": np.full(12, None)}, "'train_labels' cannot be read .*[Oo]bject"),
    "image objects": (
        {"train_images": np.full(12, None)},
        "'train_images' cannot be read .*Python objects",
    ),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_npz_is_an_error_naming_file_and_key(
    make_npz: MakeNpz, tmp_path: Path, case: str
) -> None:
    changed, message = BAD_ARRAYS[case]
    source = opened(f"npz:{make_npz(**changed)}", tmp_path)
    with pytest.raises(UserError, match=rf"own\.npz: .*{message}"):
        print(source.split("train"), source.split("test"), source.channels, source.classes)


@pytest.mark.parametrize("keep", [0.4, 0.99])
def test_truncated_npz(make_npz: MakeNpz, tmp_path: Path, keep: float) -> None:
    path = make_npz()
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(UserError, match=r"own\.npz: 'train_.*' cannot be read"):
        opened(f"npz:{path}", tmp_path).split("train")


def test_npz_with_a_flipped_bit_or_too_few_pixels(make_npz: MakeNpz, tmp_path: Path) -> None:
    path = make_npz()
    content = bytearray(path.read_bytes())
    content[600] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"own\.npz: 'train_images' cannot be read"):
        images(opened(f"npz:{path}", tmp_path))

    short = io.BytesIO()
    np.save(short, np.zeros((12, 10, 9), np.uint8))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train_images.npy", short.getvalue()[:-5])
        labels = io.BytesIO()
        np.save(labels, np.zeros(12, int))
        archive.writestr("train_labels.npy", labels.getvalue())
    with pytest.raises(UserError, match=r"own\.npz: 'train_images' cannot be read"):
        images(opened(f"npz:{path}", tmp_path))


@pytest.mark.parametrize("shape", ["(1000000000000,8,8)", "(-1,8,8)", "(6,1000000,1000000)"])
@pytest.mark.parametrize("key", ["train_images", "train_labels"])
def test_an_array_that_claims_an_absurd_shape_is_refused(
    make_npz: MakeNpz, key: str, shape: str
) -> None:
    path = make_npz()
    Claim(key, shape)(path)
    with pytest.raises(UserError, match=key):
        Npz(path).split("train")


def test_a_link_is_not_an_array(make_npz: MakeNpz) -> None:
    path = make_npz()
    LinkMember("train_images")(path)
    with pytest.raises(UserError, match="cannot be read"):
        Npz(path).split("train")


def test_an_image_that_is_a_bomb_is_refused(make_npz: MakeNpz) -> None:
    path = make_npz()
    Bomb("train_images", 300, "large")(path)
    with pytest.raises(UserError, match="pixels"):
        Npz(path).split("train")


def test_members_of_any_name_stay_in_the_archive(make_npz: MakeNpz, tmp_path: Path) -> None:
    path = make_npz()
    Member("../x", b"content")(path)
    prepare_dataset(DataConfig(name=f"npz:{path}", size=8, root=tmp_path / "data"))
    assert not (tmp_path / "x").exists()
    assert not (tmp_path.parent / "x").exists()
