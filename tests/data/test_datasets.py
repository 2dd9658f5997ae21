"""Data sets by name: official files, downloads, and names that mean nothing."""

import shutil
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from medmnist import INFO
from scipy.io import savemat
from sklearn.datasets import load_digits
from torchvision.datasets import Flowers102

from bigbatch_ue.config.names import DATASETS, KINDS, MEDMNIST_2D
from bigbatch_ue.data.datasets import PLACES, catalogue, medmnist_info
from bigbatch_ue.runtime.errors import UserError
from tests.conftest import MakeNpz
from tests.helpers.sources import PHOTO, images, opened, save


def test_digits_are_scikit_learns_own(tmp_path: Path) -> None:
    source = opened("digits", tmp_path)
    train, test = source.split("train"), source.split("test")
    assert (len(train.names), len(test.names)) == (1437, 360)
    assert sorted(train.names + test.names) == [f"{i:05d}" for i in range(1797)]
    assert min(Counter(test.labels.tolist()).values()) >= 34
    original = load_digits()
    for split in (train, test):
        image = next(split.images())
        assert (image.shape, image.dtype) == ((1, 8, 8), np.uint8)
        index = int(split.names[0])
        assert split.labels[0] == original.target[index]
        np.testing.assert_array_equal(np.round(original.images[index] * 255 / 16), image[0])


def medmnist_root(tmp_path: Path, shared_data: Path, *flags: str) -> Path:
    folder = tmp_path / "medmnist"
    folder.mkdir()
    for flag in flags:
        (folder / f"{flag}.npz").symlink_to(shared_data / f"{flag}.npz")
    return tmp_path


def test_medmnist_official_files(tmp_path: Path, shared_data: Path) -> None:
    root = medmnist_root(tmp_path, shared_data, "breastmnist", "pneumoniamnist")
    breast = opened("breastmnist", root)
    assert breast.classes == ["malignant", "normal, benign"]
    assert breast.channels == 1
    assert len(breast.split("test").names) == 156
    original = np.load(shared_data / "breastmnist.npz")["train_images"]
    np.testing.assert_array_equal(np.array(images(breast))[:, 0], original)
    assert len(opened("pneumoniamnist", root).split("train").names) == 4708


def test_medmnist_file_with_another_md5(make_npz: MakeNpz, tmp_path: Path) -> None:
    (tmp_path / "medmnist").mkdir()
    path = shutil.move(make_npz(), tmp_path / "medmnist" / "breastmnist.npz")
    message = rf"{path}: its MD5 is [0-9a-f]{{32}}, expected 750601b1f35ba3300ea97c75c52ff8f6"
    with pytest.raises(UserError, match=message):
        opened("breastmnist", tmp_path).split("train")


def test_medmnist_size_chooses_the_file(tmp_path: Path, shared_data: Path) -> None:
    root = medmnist_root(tmp_path, shared_data, "breastmnist")
    with pytest.raises(UserError, match=r"breastmnist_64\.npz: no such file; add --download, or"):
        opened("breastmnist", root, 64)
    with pytest.raises(UserError, match=r"data\.size=32: .* 28, 64, 128, 224"):
        opened("breastmnist", root, 32)


def test_medmnist_multi_label_and_ordinal(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="chestmnist: multi-label"):
        opened("chestmnist", tmp_path)
    (tmp_path / "medmnist").mkdir()
    (tmp_path / "medmnist" / "retinamnist.npz").touch()
    assert opened("retinamnist", tmp_path).classes == ["0", "1", "2", "3", "4"]


def test_medmnists_table_is_that_of_its_package() -> None:
    assert {flag: medmnist_info(flag) for flag in MEDMNIST_2D} == {
        flag: INFO[flag] for flag in MEDMNIST_2D
    }


def test_every_medmnist_name_is_known(tmp_path: Path) -> None:
    for flag in set(MEDMNIST_2D) - {"chestmnist"}:
        with pytest.raises(UserError, match=rf"{flag}\.npz: no such file; add --download"):
            opened(flag, tmp_path)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setattr(urllib.request, "_opener", None)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", ["breastmnist", "pets", "flowers102"])
def test_failed_download_leaves_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        UserError, match=rf"{tmp_path}.*: download failed \(.+\); try again, or put .* there"
    ):
        opened(name, tmp_path, download=True)
    assert [path for path in tmp_path.rglob("*") if path.name != "medmnist"] == []


@pytest.fixture
def server(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A web server of the real images on this machine."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(urllib.request, "_opener", None)
    handler = partial(SimpleHTTPRequestHandler, directory=str(shared_data))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_download_through_medmnist(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(INFO["breastmnist"], "url", f"{server}/pneumoniamnist.npz")
    with pytest.raises(UserError, match=r"download failed \(File not found or corrupted"):
        opened("breastmnist", tmp_path, download=True)
    assert list((tmp_path / "medmnist").iterdir()) == []

    monkeypatch.setitem(INFO["breastmnist"], "url", f"{server}/breastmnist.npz")
    source = opened("breastmnist", tmp_path, download=True)
    assert len(source.split("train").names) == 546
    assert [path.name for path in (tmp_path / "medmnist").iterdir()] == ["breastmnist.npz"]


def test_pets(tmp_path: Path) -> None:
    base = tmp_path / "oxford-iiit-pet"
    rows = {"trainval": ["Beagle_2 1 2 1", "Sphynx_1 2 1 1"], "test": ["Beagle_1 1 2 1"]}
    for part, lines in rows.items():
        (base / "annotations").mkdir(parents=True, exist_ok=True)
        (base / "annotations" / f"{part}.txt").write_text("\n".join(lines) + "\n")
        for line in lines:
            save(base / "images" / f"{line.split()[0]}.jpg", PHOTO, "GIF")
    source = opened("pets", tmp_path)
    assert source.classes == ["Beagle", "Sphynx"]
    train = source.split("train")
    assert train.names == ["Beagle_2.jpg", "Sphynx_1.jpg"]
    assert train.labels.tolist() == [0, 1]
    assert source.channels == 3
    assert [image.shape for image in images(source)] == [(3, 30, 40)] * 2
    assert source.split("test").names == ["Beagle_1.jpg"]

    (base / "annotations" / "test.txt").unlink()
    with pytest.raises(UserError, match="oxford-iiit-pet: incomplete"):
        opened("pets", tmp_path)


def test_flowers102(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "flowers-102"
    for index in (1, 2, 3, 4):
        save(base / "jpg" / f"image_{index:05d}.jpg", PHOTO)
    savemat(base / "imagelabels.mat", {"labels": [[5, 1, 102, 5]]})
    savemat(base / "setid.mat", {"trnid": [[4, 2]], "valid": [[3]], "tstid": [[1, 3]]})
    with pytest.raises(UserError, match=r"flowers-102: incomplete .*corrupted"):
        opened("flowers102", tmp_path)

    files = {key: (name, None) for key, (name, _) in Flowers102._file_dict.items()}
    monkeypatch.setattr(Flowers102, "_file_dict", files)
    source = opened("flowers102", tmp_path)
    assert (len(source.classes), source.classes[4]) == (102, "english marigold")
    train = source.split("train")
    assert train.names == ["image_00004.jpg", "image_00002.jpg"]
    assert train.labels.tolist() == [4, 0]
    assert source.split("test").labels.tolist() == [4, 101]
    assert images(source, "test")[0].shape == (3, 30, 40)


@pytest.mark.parametrize("name", ["pets", "flowers102"])
def test_missing_torchvision_set(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="no such folder; add --download"):
        opened(name, tmp_path)


@pytest.mark.parametrize("name", ["mnist", "npz:", "folder:", "zip:x", "organmnist3d"])
def test_unknown_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"unknown data set; allowed: digits, pets, .*folder:PATH"):
        opened(name, tmp_path)


def test_catalogue_lists_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "medmnist").mkdir()
    (tmp_path / "medmnist" / "bloodmnist_64.npz").touch()
    (tmp_path / "oxford-iiit-pet").mkdir()
    entries = {entry.name: entry for entry in catalogue(tmp_path)}
    assert set(entries) == {*DATASETS, *PLACES}
    present = {name for name, entry in entries.items() if entry.present}
    assert present == {"digits", "pets", "bloodmnist"}
    assert entries["bloodmnist"].place == f"{tmp_path / 'medmnist'}/"


def test_completion_offers_every_kind_of_place() -> None:
    assert sorted(KINDS) == sorted(f"{place.partition(':')[0]}:" for place in PLACES)
