import io
import shutil
import threading
import urllib.request
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from medmnist import INFO
from PIL import Image
from scipy.io import savemat
from sklearn.datasets import load_digits
from torchvision.datasets import Flowers102

from bigbatch_ue.config.names import MEDMNIST_2D
from bigbatch_ue.config.sections import DataConfig
from bigbatch_ue.data.datasets import open_source
from bigbatch_ue.data.image_files import decode
from bigbatch_ue.data.npz import Npz
from bigbatch_ue.data.source import Part, Pixels, Source
from bigbatch_ue.runtime.errors import UserError

MakeNpz = Callable[..., Path]
PHOTO = Image.effect_noise((40, 30), 80).convert("RGB")


def images(source: Source, part: Part = "train") -> list[Pixels]:
    return list(source.split(part).images())


def save(path: Path, image: Image.Image, kind: str | None = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, kind, **options)
    return path


def make_folder(path: Path, image: Image.Image = PHOTO, classes: str = "ab") -> Path:
    for part in ("train", "test"):
        for name in classes:
            save(path / part / name / "1.png", image)
    return path


def opened(name: str, root: Path, size: int = 28, *, download: bool = False) -> Source:
    return open_source(DataConfig(name=name, root=root, size=size), download)


# digits


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


# npz


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
    "missing key": ({"test_labels": None}, "holds no array 'test_labels'"),
    "float images": ({"train_images": np.zeros((12, 9, 9))}, "'train_images' is float64"),
    "float labels": ({"train_labels": np.zeros(12)}, "'train_labels' is float64"),
    "negative label": ({"test_labels": np.full(6, -1)}, "'test_labels' is int64, .* from 0"),
    "large label": ({"test_labels": np.full(6, 10**12)}, "label 1000000000000 is too large"),
    "flat images": ({"train_images": np.zeros((12, 81), np.uint8)}, "'train_images' has shape"),
    "channels first": ({"train_images": np.zeros((12, 3, 9, 9), np.uint8)}, "C of 1 or 3"),
    "mixed channels": ({"test_images": np.zeros((6, 9, 9, 3), np.uint8)}, "'test_images' 3"),
    "no image": ({"test_images": np.zeros((0, 9, 9), np.uint8)}, "'test_images' .* at least one"),
    "too few labels": ({"train_labels": np.zeros(11, int)}, r"'train_labels' .* expected \[12\]"),
    "multi-label": ({"train_labels": np.zeros((12, 4), int)}, "'train_labels' is multi-label"),
    "objects": ({"train_labels": np.full(12, None)}, "'train_labels' is not readable .*[Oo]bject"),
    "image objects": (
        {"train_images": np.full(12, None)},
        "'train_images' is not readable .*Python objects",
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
    with pytest.raises(UserError, match=r"own\.npz: 'train_.*' is not readable"):
        opened(f"npz:{path}", tmp_path).split("train")


def test_npz_with_a_flipped_bit_or_too_few_pixels(make_npz: MakeNpz, tmp_path: Path) -> None:
    path = make_npz()
    content = bytearray(path.read_bytes())
    content[600] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"own\.npz: 'train_images' is not readable"):
        images(opened(f"npz:{path}", tmp_path))

    short = io.BytesIO()
    np.save(short, np.zeros((12, 10, 9), np.uint8))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train_images.npy", short.getvalue()[:-5])
        labels = io.BytesIO()
        np.save(labels, np.zeros(12, int))
        archive.writestr("train_labels.npy", labels.getvalue())
    with pytest.raises(UserError, match=r"own\.npz: 'train_images' is not readable"):
        images(opened(f"npz:{path}", tmp_path))


# MedMNIST


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
    message = rf"{path}: md5 [0-9a-f]{{32}}, expected 750601b1f35ba3300ea97c75c52ff8f6"
    with pytest.raises(UserError, match=message):
        opened("breastmnist", tmp_path).split("train")


def test_medmnist_size_chooses_the_file(tmp_path: Path, shared_data: Path) -> None:
    root = medmnist_root(tmp_path, shared_data, "breastmnist")
    with pytest.raises(UserError, match=r"breastmnist_64\.npz: no such file; add --download, or"):
        opened("breastmnist", root, 64)
    with pytest.raises(UserError, match=r"data\.size=32: .* 28, 64, 128, 224"):
        opened("breastmnist", root, 32)


def test_medmnist_multi_label_and_ordinal(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="chestmnist is multi-label"):
        opened("chestmnist", tmp_path)
    (tmp_path / "medmnist").mkdir()
    (tmp_path / "medmnist" / "retinamnist.npz").touch()
    assert opened("retinamnist", tmp_path).classes == ["0", "1", "2", "3", "4"]


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
        UserError, match=rf"download failed \(.+\); try again, or put .* at {tmp_path}"
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


# torchvision's sets, as trees like the real ones


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
    with pytest.raises(UserError, match="not all of pets"):
        opened("pets", tmp_path)


def test_flowers102(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "flowers-102"
    for index in (1, 2, 3, 4):
        save(base / "jpg" / f"image_{index:05d}.jpg", PHOTO)
    savemat(base / "imagelabels.mat", {"labels": [[5, 1, 102, 5]]})
    savemat(base / "setid.mat", {"trnid": [[4, 2]], "valid": [[3]], "tstid": [[1, 3]]})
    with pytest.raises(UserError, match=r"not all of flowers102 .*corrupted"):
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


# folders


def test_flowers5_photographs(tmp_path: Path, shared_data: Path) -> None:
    for part in ("train", "test"):
        for cls in ("daisy", "roses"):
            (tmp_path / part / cls).mkdir(parents=True)
            for file in sorted((shared_data / "flowers5" / part / cls).iterdir())[:3]:
                shutil.copy(file, tmp_path / part / cls)
    source = opened(f"folder:{tmp_path}", tmp_path)
    train = source.split("train")
    files = sorted((tmp_path / "train").rglob("*.jpg"))
    assert train.names == [f"{file.parent.name}/{file.name}" for file in files]
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    for image, file in zip(images(source), files, strict=True):
        np.testing.assert_array_equal(image, np.asarray(Image.open(file)).transpose(2, 0, 1))


def test_gif_named_jpg_and_other_files(tmp_path: Path) -> None:
    make_folder(tmp_path)
    save(tmp_path / "train" / "a" / "0.JPG", PHOTO, "GIF")
    (tmp_path / "train" / "a" / "notes.txt").write_text("no image")
    (tmp_path / "train" / "a" / "paper.pdf").write_text("no image")
    source = opened(f"folder:{tmp_path}", tmp_path)
    assert source.split("train").names == ["a/0.JPG", "a/1.png", "b/1.png"]
    assert [image.shape for image in images(source)] == [(3, 30, 40)] * 3


def test_transparency_is_white(tmp_path: Path) -> None:
    half = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    half.putpixel((1, 0), (255, 0, 0, 0))
    path = save(tmp_path / "x.png", half)
    assert decode(path, 3).tolist() == [[[255, 255]], [[0, 255]], [[0, 255]]]
    palette = half.convert("P")
    path = save(tmp_path / "p.png", palette, transparency=palette.getpixel((0, 0)))
    assert decode(path, 3)[:, 0, 0].tolist() == [255, 255, 255]
    path = save(tmp_path / "la.png", Image.new("LA", (1, 1), (7, 0)))
    assert decode(path, 1).tolist() == [[[255]]]


def test_palette_cmyk_and_bilevel(tmp_path: Path) -> None:
    blue = Image.new("RGB", (9, 9), (0, 0, 255))
    assert decode(save(tmp_path / "p.png", blue.convert("P")), 3)[:, 4, 4].tolist() == [0, 0, 255]
    cmyk = save(tmp_path / "c.jpg", Image.new("CMYK", (9, 9), (255, 0, 255, 0)), quality=95)
    assert Image.open(cmyk).mode == "CMYK"
    red, green, cyan = decode(cmyk, 3)[:, 4, 4].tolist()
    assert green > 250
    assert max(red, cyan) < 5
    assert decode(save(tmp_path / "1.png", Image.new("1", (1, 1), 1)), 1).tolist() == [[[255]]]


@pytest.mark.parametrize("suffix", ["png", "ppm", "tif"])
def test_sixteen_bits_are_scaled(tmp_path: Path, suffix: str) -> None:
    levels = np.array([[0, 257, 32896, 65535]], np.uint16)
    path = save(tmp_path / f"x.{suffix}", Image.fromarray(levels))
    assert decode(path, 1).tolist() == [[[0, 1, 128, 255]]]


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = Image.new("L", (40, 30))
    upright.paste(255, (0, 0, 20, 30))
    image = decode(save(tmp_path / "x.jpg", upright, exif=exif), 1)
    assert image.shape == (1, 40, 30)
    assert image[0, :18].min() > 200
    assert image[0, 22:].max() < 50


@pytest.mark.parametrize("mode", ["L", "1", "LA", "I;16"])
def test_all_grey_stays_one_channel(tmp_path: Path, mode: str) -> None:
    grey = Image.new(mode, (6, 5))
    source = opened(f"folder:{make_folder(tmp_path, grey)}", tmp_path)
    assert source.channels == 1
    assert images(source)[0].shape == (1, 5, 6)
    save(tmp_path / "test" / "b" / "colour.png", PHOTO)
    source = opened(f"folder:{tmp_path}", tmp_path)
    assert source.channels == 3
    assert images(source)[0].shape == (3, 5, 6)


@pytest.mark.parametrize("wrong", ["text", "truncated", "float", "bomb"])
def test_file_that_is_no_image(tmp_path: Path, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path)
    path = save(tmp_path / "train" / "a" / "wrong.tif", Image.new("F", (4, 4)))
    if wrong == "text":
        path.write_text("no image")
    elif wrong == "truncated":
        save(path, PHOTO, "JPEG")
        path.write_bytes(path.read_bytes()[:-200])
    elif wrong == "bomb":
        save(path, Image.new("L", (1500, 1)))
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1400)
    with pytest.raises(UserError, match=r"train/a/wrong\.tif: not a readable image"):
        images(opened(f"folder:{tmp_path}", tmp_path))


def test_folders_that_do_not_fit(tmp_path: Path) -> None:
    def message() -> str:
        with pytest.raises(UserError) as caught:
            opened(f"folder:{tmp_path}", tmp_path)
        return str(caught.value)

    assert f"{tmp_path}/train: no such folder" in message()
    (tmp_path / "train").mkdir()
    assert f"{tmp_path}/train: holds no class folder" in message()
    save(tmp_path / "train" / "a" / "1.png", PHOTO)
    assert f"{tmp_path}/test: no such folder" in message()
    (tmp_path / "test" / "a").mkdir(parents=True)
    assert f"{tmp_path}/test/a: holds no image" in message()
    (tmp_path / "test" / "b").mkdir()
    assert f"{tmp_path}/train/b: no such folder, but test has that class" in message()


# names


@pytest.mark.parametrize("name", ["mnist", "npz:", "folder:", "zip:x", "organmnist3d"])
def test_unknown_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"unknown data set; allowed: digits, pets, .*folder:PATH"):
        opened(name, tmp_path)
