"""External images: found and matched with their originals, or refused."""

import shutil
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from bigbatch_ue.config.load import load_config
from bigbatch_ue.data.decoded import prepare_dataset
from bigbatch_ue.evaluation.external_images import load_external_images
from bigbatch_ue.protection.perturbations import protected_images
from bigbatch_ue.protection.protect import protect
from bigbatch_ue.runtime.errors import UserError
from tests.conftest import MakeNpz
from tests.helpers.images import make_images, mtimes
from tests.helpers.runs import load_learned, make_run

SIZES = [(12, 14), (9, 10), (20, 8)]
OTHERS = ("train_labels", "test_images", "test_labels")


def read(place: str, *overrides: str) -> np.ndarray[Any, Any]:
    config = load_config(overrides=overrides).data
    return load_external_images(place, prepare_dataset(config), config.take)


@pytest.mark.parametrize("form", ["png", "npz"])
@pytest.mark.parametrize("source", ["digits", "folder", "npz"])
def test_what_protect_wrote_is_read_back_bit_for_bit(
    tmp_path: Path,
    make_npz: MakeNpz,
    capsys: pytest.CaptureFixture[str],
    source: str,
    form: Any,
) -> None:
    name = {
        "digits": "digits",
        "folder": f"folder:{make_images(tmp_path / 'own', SIZES)}",
        "npz": f"npz:{make_npz(channels=(3,))}",
    }[source]
    settings = [f"data.name={name}", "data.size=10", f"data.root={tmp_path / 'cache'}"]
    settings += ["data.limit=40"] if source == "digits" else []
    run_folder = make_run(tmp_path, *settings)
    data, learned = load_learned(run_folder)
    expected = protected_images(data.train.images, **vars(learned))
    written = protect(run_folder, out=tmp_path / "theirs", form=form, at="training").folder
    place = next(written.glob("*.npz"), written)
    np.testing.assert_array_equal(read(str(place), *settings), expected)
    if form == "npz" and source == "digits":
        with pytest.raises(UserError, match=r"contains 40 .* set 1,437 \(10 within data.limit\)"):
            read(f"npz:{place}", *settings, "data.limit=10")
        return
    settings.append(f"data.limit={len(data.classes)}")
    names = prepare_dataset(load_config(overrides=settings).data).train.names
    capsys.readouterr()
    few = read(f"{'npz' if form == 'npz' else 'folder'}:{place}", *settings)
    np.testing.assert_array_equal(few, expected[[data.train.names.index(name) for name in names]])
    left = len(data.train) - len(names)
    assert f"{left} images beyond data.limit left out" in capsys.readouterr().err


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, list[str]]:
    """A clean folder, and its train images darkened as BMP in another, classes at the top."""
    clean, theirs = make_images(tmp_path / "own", SIZES), tmp_path / "theirs"
    for file in (clean / "train").rglob("*.png"):
        copy = theirs / file.relative_to(clean / "train").with_suffix(".bmp")
        copy.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(Image.open(file)) // 2).save(copy)
    return clean, theirs, [f"data.name=folder:{clean}", "data.size=16", f"data.root={tmp_path}/c"]


def test_other_suffixes_and_class_folders_at_the_top_are_found(
    folders: tuple[Path, Path, list[str]],
) -> None:
    _, theirs, settings = folders
    clean = prepare_dataset(load_config(overrides=settings).data).train.images
    found = read(str(theirs), *settings)
    assert np.abs(found - clean / 2).mean() < 1


def test_every_mismatch_is_one_clear_error(folders: tuple[Path, Path, list[str]]) -> None:
    clean, theirs, settings = folders
    extra = theirs / "cat" / "more.png"
    shutil.copy(theirs / "cat" / "image0.bmp", extra.with_suffix(".bmp"))
    with pytest.raises(UserError, match=r"1 of 7 images without a clean original, such as cat"):
        read(str(theirs), *settings)
    read(str(theirs), *settings, "data.limit=5")
    extra.with_suffix(".bmp").unlink()
    Image.open(theirs / "dog" / "image1.bmp").save(theirs / "dog" / "image1.png")
    with pytest.raises(UserError, match=r"image1\.bmp is the same image"):
        read(str(theirs), *settings)
    (theirs / "dog" / "image1.png").unlink()
    (theirs / "dog" / "image1.bmp").write_bytes(b"BM no image")
    with pytest.raises(UserError, match=r"image1\.bmp: cannot be read as an image"):
        read(str(theirs), *settings)
    (theirs / "dog" / "image1.bmp").unlink()
    with pytest.raises(UserError, match=r"1 of 6 train images missing, such as dog/image1"):
        read(str(theirs), *settings)
    with pytest.raises(UserError, match="are identical to the clean ones"):
        read(f"folder:{clean}", *settings)


@pytest.mark.parametrize("place", ["folder:{}/none", "folder:{}/a", "npz:{}", "folder:", "{}/a"])
def test_a_place_of_another_kind_is_refused(
    folders: tuple[Path, Path, list[str]], tmp_path: Path, place: str
) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(UserError, match=r"no such .*; give folder:PATH or npz:PATH"):
        read(place.format(tmp_path), *folders[2])


@pytest.mark.parametrize("naming", ["own", "protect"])
def test_names_that_differ_in_the_suffix_alone_are_told_apart(
    folders: tuple[Path, Path, list[str]], naming: str
) -> None:
    clean, theirs, settings = folders
    levels = {".png": 60, ".bmp": 90}
    for suffix, level in levels.items():
        Image.new("RGB", (9, 9), (level + 5, 0, 0)).save(
            clean / "train" / "cat" / f"image0{suffix}"
        )
        written = f"image0{suffix}" if naming == "own" else f"image0{suffix}.png"
        Image.new("RGB", (9, 9), (level, 0, 0)).save(theirs / "cat" / written)
    if naming == "protect":
        (theirs / "cat" / "image0.bmp").unlink()
    found = dict(zip(names(settings), read(str(theirs), *settings)[:, 0, 0, 0], strict=True))
    assert {suffix: found[f"cat/image0{suffix}"] for suffix in levels} == levels


def test_names_may_be_written_in_two_forms_of_unicode(
    folders: tuple[Path, Path, list[str]],
) -> None:
    clean, theirs, settings = folders
    nfc, nfd = (unicodedata.normalize(form, "Größe") for form in ("NFC", "NFD"))
    expected = read(str(theirs), *settings)
    (clean / "train" / "dog" / "image0.png").rename(clean / "train" / "dog" / f"{nfc}.png")
    (perturbed,) = (theirs / "dog").glob("image0.*")
    perturbed.rename(perturbed.with_stem(nfd))
    found = read(str(theirs), *settings)
    np.testing.assert_array_equal(found[names(settings).index(f"dog/{nfc}.png")], expected[3])


def names(settings: list[str]) -> list[str]:
    return prepare_dataset(load_config(overrides=settings).data).train.names


def test_linked_class_folders_are_followed_unless_they_lead_outside(
    folders: tuple[Path, Path, list[str]], tmp_path: Path
) -> None:
    _, theirs, settings = folders
    expected = read(str(theirs), *settings)
    (theirs / "dog").rename(theirs / ".dogs")
    (theirs / "dog").symlink_to(tmp_path / "elsewhere")
    shutil.move(theirs / ".dogs", tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"dog: links to .*elsewhere, outside"):
        read(str(theirs), *settings)
    (tmp_path / "link").symlink_to(theirs)
    (theirs / "dog").unlink()
    shutil.move(tmp_path / "elsewhere", theirs / "dog")
    np.testing.assert_array_equal(read(str(tmp_path / "link"), *settings), expected)


def test_grey_may_be_saved_as_colour_but_colour_is_not_grey(tmp_path: Path) -> None:
    clean = make_images(tmp_path / "own", SIZES, mode="L")
    settings = [f"data.name=folder:{clean}", "data.size=16", f"data.root={tmp_path / 'cache'}"]
    with pytest.raises(UserError, match=r"contains colour images, .* save them as grey"):
        read(str(make_images(tmp_path / "theirs", SIZES)), *settings)
    solarised = shutil.copytree(clean, tmp_path / "solarised")
    for file in solarised.rglob("*.png"):
        ImageOps.solarize(Image.open(file), 240).save(file)
    expected = read(str(solarised), *settings)
    for file in solarised.rglob("*.png"):
        Image.open(file).convert("RGB").save(file)
    np.testing.assert_array_equal(read(str(solarised), *settings), expected)


def test_colour_may_be_saved_as_grey(folders: tuple[Path, Path, list[str]]) -> None:
    _, theirs, settings = folders
    for file in theirs.rglob("*.bmp"):
        Image.open(file).convert("L").save(file)
    found = read(str(theirs), *settings)
    np.testing.assert_array_equal(found[:, 0], found[:, 2])


def test_nothing_is_written(folders: tuple[Path, Path, list[str]], tmp_path: Path) -> None:
    _, theirs, settings = folders
    prepare_dataset(load_config(overrides=settings).data)
    before = mtimes(tmp_path)
    read(str(theirs), *settings)
    assert mtimes(tmp_path) == before


def test_npz_in_another_order_or_of_another_kind_is_refused(
    tmp_path: Path, make_npz: MakeNpz
) -> None:
    own = make_npz()
    clean = [f"data.name=npz:{own}", "data.size=10", f"data.root={tmp_path / 'cache'}"]
    with np.load(own, allow_pickle=False) as arrays:
        good = arrays["train_images"] // 2
    assert read(f"npz:{make_npz('a.npz', train_images=good)}", *clean).shape == (12, 1, 10, 10)
    alone = make_npz("alone.npz", **dict.fromkeys(OTHERS), train_images=good)
    assert read(str(alone), *clean).shape == (12, 1, 10, 10)
    labels = np.arange(12, dtype=np.uint8)[::-1, None] % 3
    for name, changed, message in (
        ("b", {"train_images": good, "train_labels": labels}, "so the order differs"),
        ("c", {"train_images": good[:5], "train_labels": labels[:5]}, "contains 5 train images"),
        ("d", {"train_images": np.stack([good, good, 255 - good], 3)}, "contains colour images"),
        ("e", {"train_images": good.astype(float)}, "expected uint8"),
        ("f", {"train_images": None}, "contains no array 'train_images'"),
        ("g", {}, "are identical to the clean ones"),
        ("h", {"train_images": good[::-1], **dict.fromkeys(OTHERS)}, "of 12 compared images"),
    ):
        with pytest.raises(UserError, match=message):
            read(str(make_npz(f"{name}.npz", **changed)), *clean)
