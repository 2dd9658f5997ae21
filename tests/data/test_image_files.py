"""Image files: decoding of every mode, and folders of classes."""

import shutil
import struct
import unicodedata
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from bigbatch_ue.data.encoded import EncodedImages
from bigbatch_ue.data.image_files import decode
from bigbatch_ue.data.inventory import find_images
from bigbatch_ue.data.source import Part
from bigbatch_ue.runtime.errors import UserError, user_message
from tests.helpers.sources import PHOTO, images, opened, save
from tests.soak.damage import Maze


def make_folder(path: Path, image: Image.Image = PHOTO, classes: Sequence[str] = "ab") -> Path:
    for part in ("train", "test"):
        for name in classes:
            save(path / part / name / "1.png", image)
    return path


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


def save_levels(folder: Path, largest: int) -> Path:
    """A folder of two classes whose images have 16 bits a value, up to `largest` at one place."""
    for part in ("train", "test"):
        for name in ("a", "b"):
            levels = np.full((6, 6), largest // 2, np.uint16)
            levels[0, 0] = largest if (part, name) == ("test", "b") else 0
            save(folder / part / name / "1.png", Image.fromarray(levels))
    return folder


@pytest.mark.parametrize(
    ("largest", "bits"), [(200, 8), (1000, 10), (4095, 12), (9000, 14), (60000, 16)]
)
def test_the_bits_in_use_keep_their_range(tmp_path: Path, largest: int, bits: int) -> None:
    source = opened(f"folder:{save_levels(tmp_path, largest)}", tmp_path)
    assert isinstance(source, EncodedImages)
    assert source.survey.bits == bits
    middle = largest // 2 * 255 / (2**bits - 1)
    assert [image[0, 1, 1] for image in images(source)] == [round(middle)] * 2
    expected = [f"4 with {bits} bits a value, scaled to 8, such as train/a/1.png"]
    assert source.changes() == (expected if bits > 8 else [])


def save_colours(path: Path, largest: int) -> Path:
    """A PNG of 16 bits a colour, which Pillow reads but does not write."""
    values = np.linspace(0, largest, 6 * 6 * 3).round().astype(">u2").reshape(6, -1)
    lines = b"".join(b"\0" + line.tobytes() for line in values)
    header = struct.pack(">IIBBBBB", 6, 6, 16, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    return path


def test_colours_of_16_bits_are_said_or_refused_if_they_would_be_black(tmp_path: Path) -> None:
    make_folder(tmp_path)
    path = save_colours(tmp_path / "train" / "a" / "0.png", 65535)
    expected = ["1 with 16 bits a colour, of which the upper 8 are taken, such as train/a/0.png"]
    assert opened(f"folder:{tmp_path}", tmp_path).changes() == expected
    assert decode(path, 3).max() == 255
    save_colours(path, 4095)
    with pytest.raises(UserError, match=r"0\.png: images with colours use 12 of 16 bits"):
        images(opened(f"folder:{tmp_path}", tmp_path))


@pytest.mark.parametrize(("dtype", "largest"), [(np.uint8, 255), (np.uint16, 4095)])
def test_a_negative_is_shown_as_a_positive(tmp_path: Path, dtype: Any, largest: int) -> None:
    stored = Image.fromarray(np.array([[0, largest]], dtype))
    path = save(tmp_path / "x.tif", stored, tiffinfo={262: 0})
    assert Image.open(path).tag_v2[262] == 0  # type: ignore[attr-defined]
    shown = decode(path, 1, bits=12).tolist()
    assert shown == (
        [[[255, 0]]] if dtype == np.uint16 else [np.asarray(Image.open(path)).tolist()]
    )


def test_cmyk_without_a_profile_is_said(tmp_path: Path) -> None:
    make_folder(tmp_path)
    save(tmp_path / "train" / "a" / "0.tif", Image.new("CMYK", (6, 5)))
    expected = ["1 in CMYK without a colour profile, converted to RGB, such as train/a/0.tif"]
    assert opened(f"folder:{tmp_path}", tmp_path).changes() == expected


def test_pictures_of_two_lenses_are_images(tmp_path: Path) -> None:
    save(tmp_path / "x.mpo", PHOTO, "MPO", save_all=True, append_images=[PHOTO])
    assert [path.name for path in find_images(tmp_path, inside=tmp_path)] == ["x.mpo"]
    assert decode(tmp_path / "x.mpo", 3).shape == (3, 30, 40)


def test_negative_values_are_refused_for_the_true_reason(tmp_path: Path) -> None:
    path = save(tmp_path / "x.tif", Image.fromarray(np.array([[-1024, 3071]], np.int32)))
    with pytest.raises(UserError, match="values from -1024 to 3071; shift them to 0 to 65535"):
        decode(path, 1)


def test_transparent_and_grey_images_among_others_are_counted(tmp_path: Path) -> None:
    make_folder(tmp_path)
    save(tmp_path / "train" / "a" / "0.png", Image.new("L", (6, 5)))
    save(tmp_path / "test" / "b" / "0.png", Image.new("RGBA", (6, 5)))
    assert opened(f"folder:{tmp_path}", tmp_path).changes() == [
        "1 with transparency, put on white, such as test/b/0.png",
        "1 grey among colour images, so taken in colour, such as train/a/0.png",
    ]


def test_a_grey_image_of_16_bits_among_colour_ones_is_counted_once(tmp_path: Path) -> None:
    make_folder(tmp_path)
    deep = Image.fromarray(np.full((6, 5), 40_000, np.uint16))
    save(tmp_path / "train" / "a" / "0.png", deep)
    assert opened(f"folder:{tmp_path}", tmp_path).changes() == [
        "1 with 16 bits a value, scaled to 8 and taken in colour, such as train/a/0.png"
    ]


def test_pages_and_frames_beyond_the_first_are_counted(tmp_path: Path) -> None:
    make_folder(tmp_path)
    pages = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    path = tmp_path / "train" / "a" / "0.tif"
    pages[0].save(path, save_all=True, append_images=pages[1:])
    source = opened(f"folder:{tmp_path}", tmp_path)
    assert source.changes() == [
        "1 with several pages or frames, of which the first is taken, such as train/a/0.tif"
    ]
    assert images(source)[0][:, 0, 0].tolist() == [255, 0, 0]


def wide_profile() -> bytes:
    """A colour profile like sRGB, but for a gamma of about 1."""
    content = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for name in (b"sRGB", "sRGB".encode("utf-16-be")):
        content[:] = content.replace(name, name.replace(b"R", b"X"))
    at = content.index(b"para")
    content[at + 12 : at + 16] = (65536).to_bytes(4, "big")
    return bytes(content)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_of_another_profile_are_converted(tmp_path: Path, mode: str) -> None:
    make_folder(tmp_path)
    grey = Image.new(mode, (8, 8), (100, 100, 100))
    save(tmp_path / "train" / "a" / "0.png", grey, icc_profile=wide_profile())
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    save(tmp_path / "train" / "b" / "0.png", grey, icc_profile=srgb)
    source = opened(f"folder:{tmp_path}", tmp_path)
    (change,) = [change for change in source.changes() if "profile" in change]
    assert change.startswith("1 with the colour profile sXGB")
    assert change.endswith("converted to sRGB, such as train/a/0.png")
    assert source.decoded_otherwise
    converted, _, same, _ = images(source)
    assert converted[:, 0, 0].min() > 120, "a linear 100 is a lighter grey in sRGB"
    assert same[:, 0, 0].tolist() == [100, 100, 100]


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
def test_invalid_image_is_named(
    tmp_path: Path, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    with pytest.raises(UserError, match=r"train/a/wrong\.tif: cannot be read as an image"):
        images(opened(f"folder:{tmp_path}", tmp_path))


def damage(folder: Path) -> dict[str, str]:
    """Add images that cannot be read to a folder; returns what is wrong with each."""
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("no image")
    cut = save(folder / "truncated.jpg", PHOTO, "JPEG")
    cut.write_bytes(cut.read_bytes()[:-200])
    return {
        "empty.png": "is empty (0 bytes)",
        "text.png": "cannot be read as an image (damaged, or of another format)",
        "truncated.jpg": "cannot be read as an image (image file is truncated",
    }


@pytest.mark.parametrize("part", ["train", "test"])
def test_all_unreadable_images_are_named_at_once(tmp_path: Path, part: Part) -> None:
    """Those, too, that are found damaged only when their pixels are read."""
    faults = damage(make_folder(tmp_path) / "train" / "a")
    (tmp_path / "test" / "b" / "empty.png").touch()

    def message() -> str:
        with pytest.raises(UserError) as caught:
            images(opened(f"folder:{tmp_path}", tmp_path), part)
        return str(caught.value)

    said = message()
    assert said.startswith(f"{tmp_path}: 4 image files are damaged or unreadable: ")
    assert said.endswith("test/b/empty.png is empty (0 bytes); fix or remove them")
    assert all(f"train/a/{name} {fault}" in said for name, fault in faults.items())
    assert said.count(str(tmp_path)) == 1
    for name in ("empty", "text"):
        (tmp_path / "train" / "a" / f"{name}.png").unlink()
    (tmp_path / "test" / "b" / "empty.png").unlink()
    cut = tmp_path / "train" / "a" / "truncated.jpg"
    shutil.copy(cut, tmp_path / "test" / "b" / "cut.jpg")
    assert message().startswith(f"{tmp_path}: 2 image files are damaged or unreadable: train/a/tr")
    (tmp_path / "test" / "b" / "cut.jpg").unlink()
    for number in range(7):
        (tmp_path / "train" / "a" / f"0{number}.png").touch()
    assert "8 image files" in (said := message())
    assert said.endswith("04.png is empty (0 bytes) and 3 more; fix or remove them")


def test_one_unreadable_image_is_named_once(tmp_path: Path) -> None:
    for name, fault in damage(tmp_path).items():
        with pytest.raises(UserError) as caught:
            decode(tmp_path / name, 3)
        assert str(caught.value).startswith(f"{tmp_path / name}: {fault}")
        assert str(caught.value).endswith("; fix or remove it")
        assert str(caught.value).count(name) == 1


def test_postscript_is_not_an_image(tmp_path: Path) -> None:
    """PIL would start Ghostscript, which runs it."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(UserError, match="cannot be read as an image"):
        decode(tmp_path / "a.png", 3)
    (tmp_path / "a.png").rename(tmp_path / "a.eps")
    assert find_images(tmp_path, inside=tmp_path) == []


@pytest.mark.parametrize(
    ("made", "named", "hint"),
    [
        ("cats/1.png", ".", "contains cats: if these are classes, move them into train/"),
        ("Train/cats/1.png", ".", "rename Train/ to train/"),
        ("train/cats/1.png", "train", "is one of them, so name "),
    ],
)
def test_folders_of_another_shape_are_recognised(
    made: str, named: str, hint: str, tmp_path: Path
) -> None:
    save(tmp_path / "photos" / made, PHOTO)
    with pytest.raises(UserError, match=r"train: no such folder; put images into") as caught:
        opened(f"folder:{tmp_path / 'photos' / named}", tmp_path)
    assert hint in str(caught.value)


def test_invalid_folders_are_named(tmp_path: Path) -> None:
    def message() -> str:
        with pytest.raises(UserError) as caught:
            opened(f"folder:{tmp_path}", tmp_path)
        return str(caught.value)

    with pytest.raises(UserError, match=r"name=folder:.*nowhere: no such folder; check"):
        opened(f"folder:{tmp_path / 'nowhere'}", tmp_path)
    with pytest.raises(UserError, match=rf"a place needs its kind; write folder:{tmp_path}"):
        opened(str(tmp_path), tmp_path)
    assert f"{tmp_path}/train: no such folder" in message()
    (tmp_path / "train").mkdir()
    assert f"{tmp_path}/train: contains no class folder" in message()
    save(tmp_path / "train" / "a" / "1.png", PHOTO)
    assert f"{tmp_path}/test: no such folder" in message()
    (tmp_path / "test" / "a").mkdir(parents=True)
    assert f"{tmp_path}/test/a: contains no image" in message()
    (tmp_path / "test" / "b").mkdir()
    assert f"{tmp_path}/train/b: no such folder, but test has that class" in message()
    (tmp_path / "train" / "b").mkdir()
    assert f"{tmp_path}/train/b, {tmp_path}/test/a, {tmp_path}/test/b: contains no" in message()


NFC, NFD = (unicodedata.normalize(form, "Blüten") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(("train", "test"), [(NFC, NFC), (NFC, NFD), (NFD, NFC), (NFD, NFD)])
def test_a_class_may_be_written_in_two_forms_of_unicode(
    tmp_path: Path, train: str, test: str
) -> None:
    for part, name in (("train", train), ("test", test)):
        for label in ("Blz", name, "a"):
            save(tmp_path / part / label / "1.png", PHOTO)
    source = opened(f"folder:{tmp_path}", tmp_path)
    order = sorted(["Blz", train, "a"])
    assert source.classes == [NFC if name == train else name for name in order]
    assert source.left_out() == []
    for part, name in (("train", train), ("test", test)):
        split = source.split(part)  # type: ignore[arg-type]
        assert dict(zip((source.classes[i] for i in split.labels), split.names, strict=True)) == {
            "Blz": "Blz/1.png",
            NFC: f"{name}/1.png",
            "a": "a/1.png",
        }


def test_two_class_folders_of_one_name_are_refused(tmp_path: Path) -> None:
    make_folder(tmp_path, classes=(NFC, NFD))
    with pytest.raises(UserError, match=r"train/Blüten: there are two folders of that name") as two:
        opened(f"folder:{tmp_path}", tmp_path)
    assert r"('Blu\u0308ten' and 'Bl\xfcten'); merge them" in str(two.value)


@pytest.mark.parametrize("name", ["a\nb.png", "\x1b[31m.png", "\udcff.png"])
def test_names_with_control_characters_are_refused(name: str, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / name)
    with pytest.raises(UserError, match="control character") as refused:
        find_images(tmp_path, inside=tmp_path)
    assert (user_message(refused.value) or "\n").isprintable()


def test_links_out_of_an_image_folder_are_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "set")
    outside = save(tmp_path / "outside" / "x.png", PHOTO)
    for target in (outside.parent, outside):
        link = folder / "train" / "a" / "link.png"
        link.symlink_to(target)
        with pytest.raises(UserError, match="outside"):
            opened(f"folder:{folder}", tmp_path)
        link.unlink()


def test_a_linked_folder_of_images_is_fine(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(make_folder(tmp_path / "set"))
    assert len(opened(f"folder:{tmp_path / 'link'}", tmp_path).files()) == 4


@pytest.mark.timeout(20)
def test_links_in_circles_are_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "set")
    Maze("train/a")(folder)
    with pytest.raises(UserError, match="already"):
        opened(f"folder:{folder}", tmp_path)
