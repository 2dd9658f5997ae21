"""Writers of protected images: names of the PNG files, content of the npz file."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bigbatch_ue.protection.perturbations import protected_images
from bigbatch_ue.protection.protect import protect
from bigbatch_ue.protection.visibility import measure_visibility
from bigbatch_ue.protection.writers import png_names
from bigbatch_ue.runtime.errors import UserError
from tests.conftest import MakeNpz
from tests.helpers.images import make_images, npz_train_images
from tests.helpers.runs import load_learned, make_run

# -- names ---------------------------------------------------------------------------------------


def test_names_that_differ_by_suffix_only_keep_it() -> None:
    names = ["a.jpg", "a.png", "b.jpeg", "c/d.tif", "a.jpg.gif"]
    found = png_names(names, np.array([0, 0, 1, 0, 0]), ["x", "y/z"])
    assert len(set(found)) == len(found)
    assert found[:4] == ["x/a.jpg.png", "x/a.png.png", "y_z/b.png", "c/d.png"]


@pytest.mark.parametrize("name", ["/etc/passwd", "../x.png", "a/../../x.png", "cat/../../x", ""])
def test_names_that_lead_out_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="not a valid image name"):
        png_names([name], np.array([0]), ["cat"])


@pytest.mark.parametrize("label", ["..", ".", "", "/abs", "../../up", "a\\b"])
def test_class_names_stay_one_folder(label: str) -> None:
    (path,) = png_names(["a.png"], np.array([0]), [label])
    assert len(Path(path).parts) == 2
    assert ".." not in Path(path).parts
    assert not Path(path).is_absolute()


def test_a_name_that_is_there_twice_is_refused() -> None:
    with pytest.raises(UserError, match="2 images have this name"):
        png_names(["a.png", "a.png"], np.array([0, 0]), ["cat"])


# -- files ---------------------------------------------------------------------------------------


def test_npz_keeps_medmnists_keys_and_everything_that_is_not_protected(
    tmp_path: Path, make_npz: MakeNpz, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(3)
    validation = random.integers(256, size=(4, 10, 9), dtype=np.uint8)
    labels = np.zeros((4, 1), np.uint8)
    source = make_npz(val_images=validation, val_labels=labels)
    run = make_run(tmp_path, f"data.name=npz:{source}", "data.size=9", "data.limit=8")
    protect(run)
    file = run / "protected" / source.name
    with np.load(source) as old, np.load(file, allow_pickle=False) as new:
        assert set(new) == set(old)
        assert new["train_images"].shape == (8, 10, 9)
        assert new["train_labels"].dtype == np.uint8
        taken = load_learned(run)[0].train.positions
        np.testing.assert_array_equal(new["train_labels"], old["train_labels"][taken])
        change = new["train_images"].astype(int) - old["train_images"][taken]
        assert np.abs(change).max() <= 16
        for key in ("val_images", "val_labels", "test_images", "test_labels"):
            np.testing.assert_array_equal(new[key], old[key])
    manifest = json.loads((file.parent / "protected.json").read_text())
    assert manifest["source"]["left_out"][-1] == "4 train images beyond data.limit=8"
    assert f"{file.parent / 'protected.json'}: says what was left out" in capsys.readouterr().err
    with zipfile.ZipFile(file) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize("form", ["png", "npz"])
def test_digits_at_training_size_are_what_the_target_sees(tmp_path: Path, form: Any) -> None:
    run = make_run(tmp_path, "data.name=digits", "data.size=16", "data.limit=40")
    out = tmp_path / "out"
    report = protect(run, out=out, form=form, at="training")
    data, perturbations = load_learned(run)
    expected = protected_images(data.train.images, **vars(perturbations))
    if form == "npz":
        found = npz_train_images(out)
        with np.load(out / "digits.npz") as arrays:
            np.testing.assert_array_equal(arrays["test_images"], data.test.images[:, 0])
            np.testing.assert_array_equal(arrays["train_labels"][:, 0], data.train.labels)
    else:
        paths = [
            out / "train" / str(label) / f"{name}.png"
            for name, label in zip(data.train.names, data.train.labels, strict=True)
        ]
        found = np.stack([np.asarray(Image.open(path)) for path in paths])
    np.testing.assert_array_equal(found, expected[:, 0])
    assert report.visibility == measure_visibility(zip(data.train.images, expected, strict=True))


def test_same_names_with_other_suffixes_both_survive(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_images(tmp_path / "source", [(8, 8)], mode="L")
    Image.new("L", (8, 8), 90).save(source / "train" / "cat" / "image0.bmp")
    run = make_run(tmp_path, f"data.name=folder:{source}", "data.size=8")
    protect(run)
    written = [p.relative_to(run / "protected").as_posix() for p in run.rglob("*.png")]
    cat, dog = "train/cat/image0", "train/dog/image0"
    assert sorted(written) == [f"{cat}.bmp.png", f"{cat}.png.png", f"{dog}.png"]
    said = "2 images with the old suffix kept, such as cat/image0.bmp.png"
    assert f"{said}: another image has the same name without it" in capsys.readouterr().err
    manifest = json.loads((run / "protected" / "protected.json").read_text())
    assert manifest["source"]["changes"] == [said]
    grey = Image.open(run / "protected" / f"{cat}.bmp.png")
    assert grey.mode == "L"
    assert np.abs(np.asarray(grey).astype(int) - 90).max() <= 16


def test_bytes_do_not_depend_on_when_they_are_written(tmp_path: Path, make_npz: MakeNpz) -> None:
    run = make_run(tmp_path, f"data.name=npz:{make_npz()}", "data.size=9")
    for form in ("png", "npz"):
        written = [protect(run, out=tmp_path / f"{form}{i}", form=form).folder for i in (0, 1)]
        first, second = (
            {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
            for folder in written
        )
        assert first == second
