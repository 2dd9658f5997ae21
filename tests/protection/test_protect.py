import math
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from bigbatch_ue.config.load import load_config
from bigbatch_ue.config.schema import Config
from bigbatch_ue.data.datasets import open_source
from bigbatch_ue.data.decoded import prepare_dataset
from bigbatch_ue.files.formats import read_json
from bigbatch_ue.protection import protect as module
from bigbatch_ue.protection.perturbations import protected_images, to_eight_bit
from bigbatch_ue.protection.protect import png_names, protect
from bigbatch_ue.protection.visibility import Visibility, measure_visibility
from bigbatch_ue.runtime.errors import UserError
from tests.conftest import MakeNpz
from tests.helpers.images import make_images, mtimes
from tests.helpers.runs import make_run


def assert_nothing_beside(out: Path) -> None:
    """Neither the output nor a half-written temporary of it is there."""
    assert not [path for path in out.parent.iterdir() if path.name.strip(".").startswith(out.name)]


def read_train(out: Path) -> NDArray[np.uint8]:
    (file,) = out.glob("*.npz")
    with np.load(file, allow_pickle=False) as arrays:
        images: NDArray[np.uint8] = arrays["train_images"]
    return images


# -- the 8-bit perturbation ----------------------------------------------------------------------


@pytest.mark.parametrize("eps", [16 / 255, 0.05, 8 / 255, 0.5 / 255, 1.0])
def test_eight_bit_never_exceeds_eps(eps: float) -> None:
    delta = np.linspace(-eps, eps, 10_001, dtype=np.float32).reshape(1, 1, 73, 137)
    units = to_eight_bit(delta, eps)
    assert np.abs(units / 255).max() <= eps * (1 + 1e-12)
    assert np.abs(units).max() == math.floor(255 * eps + 1e-6)
    assert np.abs(units - 255 * delta.astype(np.float64)).max() < 1
    assert (units * delta >= 0).all()


def test_protected_images_add_each_clusters_rounded_perturbation_and_clip() -> None:
    random = np.random.default_rng(0)
    eps = 16 / 255
    images = random.integers(256, size=(2_100, 3, 8, 8), dtype=np.uint8)
    delta = random.uniform(-eps, eps, (4, 3, 8, 8)).astype(np.float32)
    assignment = random.integers(4, size=len(images))
    expected = np.stack(
        [
            np.clip(np.rint(image + 255 * delta[row].astype(np.float64)), 0, 255)
            for image, row in zip(images, assignment, strict=True)
        ]
    )
    protected = protected_images(images, delta, assignment, eps)
    assert protected.dtype == np.uint8
    np.testing.assert_array_equal(protected, expected)


# -- names ---------------------------------------------------------------------------------------


def test_names_that_differ_by_suffix_only_keep_it() -> None:
    names = ["a.jpg", "a.png", "b.jpeg", "c/d.tif", "a.jpg.gif"]
    found = png_names(names, np.array([0, 0, 1, 0, 0]), ["x", "y/z"])
    assert len(set(found)) == len(found)
    assert found[:4] == ["x/a.jpg.png", "x/a.png.png", "y_z/b.png", "c/d.png"]


@pytest.mark.parametrize("name", ["/etc/passwd", "../x.png", "a/../../x.png", "cat/../../x", ""])
def test_names_that_lead_out_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="not a name for an image"):
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


@pytest.mark.parametrize("eps", [16 / 255, 0.05])
@pytest.mark.parametrize("form", ["png", "npz"])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_written_files_hold_the_bound(
    tmp_path: Path, make_npz: MakeNpz, eps: float, form: Any, channels: tuple[int, ...]
) -> None:
    source = make_npz(channels=channels)
    run = make_run(tmp_path, f"data.name=npz:{source}", "data.size=9", f"generator.eps={eps!r}")
    report = protect(run, form=form)
    out = run / "protected"
    with np.load(source, allow_pickle=False) as arrays:
        before = arrays["train_images"].astype(int)
    if form == "npz":
        after = read_train(out)
    else:
        pictures = [Image.open(path) for path in sorted(out.rglob("*.png"), key=lambda p: p.name)]
        assert {picture.mode for picture in pictures} == {"RGB" if channels else "L"}
        after = np.stack([np.asarray(picture) for picture in pictures])
    assert after.shape == before.shape
    assert after.dtype == np.uint8
    difference = np.abs(after - before)
    found = report.visibility
    assert found.linf == difference.max() == math.floor(255 * eps + 1e-6)
    assert (found.images, found.unchanged) == (12, 0)
    assert found.psnr_mean is not None
    assert 20 < found.psnr_mean < 40
    assert f"12 images as {form} at original size; L-inf {found.linf}/255, PSNR" in str(report)
    kept = read_json(out / "protected.json")["report"]
    assert (kept["form"], kept["at"]) == (form, "original")
    assert Visibility(**kept["visibility"]) == found


def test_npz_keeps_medmnists_keys_and_everything_that_is_not_protected(
    tmp_path: Path, make_npz: MakeNpz
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
        np.testing.assert_array_equal(new["train_labels"], old["train_labels"][:8])
        for key in ("val_images", "val_labels", "test_images", "test_labels"):
            np.testing.assert_array_equal(new[key], old[key])
    with zipfile.ZipFile(file) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize("form", ["png", "npz"])
def test_digits_at_training_size_are_what_the_target_sees(tmp_path: Path, form: Any) -> None:
    run = make_run(tmp_path, "data.name=digits", "data.size=16", "data.limit=40")
    out = tmp_path / "out"
    report = protect(run, out=out, form=form, at="training")
    config, data, delta, assignment = learnt(run)
    expected = protected_images(data.train.images, delta, assignment, config.generator.eps)
    if form == "npz":
        found = read_train(out)
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


def learnt(run: Path) -> tuple[Config, Any, NDArray[np.float32], NDArray[np.int64]]:
    config, finished = module.load_run(run)
    data = prepare_dataset(config.data)
    perturbations = module.load_perturbations(config, finished, data)
    return config, data, perturbations.delta, perturbations.assignment


def test_originals_of_mixed_sizes_get_the_resized_perturbation(tmp_path: Path) -> None:
    sizes = [(8, 8), (16, 16), (31, 20), (5, 40)]
    source = make_images(tmp_path / "source", sizes)
    run = make_run(tmp_path, f"data.name=folder:{source}", "data.size=16")
    report = protect(run)
    config, data, delta, assignment = learnt(run)
    assert (report.form, report.at) == ("png", "original")
    assert (report.visibility.images, report.visibility.linf) == (8, 16)
    for name, row in zip(data.train.names, assignment, strict=True):
        before = np.asarray(Image.open(source / "train" / name)).astype(int)
        after = np.asarray(Image.open(run / "protected" / "train" / name)).astype(int)
        assert after.shape == before.shape
        assert np.abs(after - before).max() <= 16
        if before.shape[:2] == (16, 16):
            units = to_eight_bit(delta[row], config.generator.eps).transpose(1, 2, 0)
            np.testing.assert_array_equal(after, np.clip(before + units, 0, 255))
        inside = (before > 20) & (before < 235)
        larger = torch.nn.functional.interpolate(
            torch.from_numpy(delta[row])[None], before.shape[:2], mode="bilinear", antialias=True
        )[0].permute(1, 2, 0)
        if before.shape[0] <= 16 and before.shape[1] <= 16:
            assert np.abs((after - before) - 255 * larger.numpy())[inside].max() <= 0.501


def test_npz_of_mixed_sizes_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    source = make_images(tmp_path / "source", [(8, 8), (9, 8)])
    run = make_run(tmp_path, f"data.name=folder:{source}", "data.size=8")
    with pytest.raises(UserError, match=r"an npz has one size, not 8x8 and 9x8"):
        protect(run, form="npz")
    assert_nothing_beside(run / "protected")
    report = protect(run, form="npz", at="training")
    assert read_train(report.folder).shape == (4, 8, 8, 3)


def test_same_names_with_other_suffixes_both_survive(tmp_path: Path) -> None:
    source = make_images(tmp_path / "source", [(8, 8)], mode="L")
    Image.new("L", (8, 8), 90).save(source / "train" / "cat" / "image0.bmp")
    run = make_run(tmp_path, f"data.name=folder:{source}", "data.size=8")
    protect(run)
    written = [p.relative_to(run / "protected").as_posix() for p in run.rglob("*.png")]
    cat, dog = "train/cat/image0", "train/dog/image0"
    assert sorted(written) == [f"{cat}.bmp.png", f"{cat}.png.png", f"{dog}.png"]
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


# -- never over anything -------------------------------------------------------------------------


def test_second_run_changes_nothing(
    tmp_path: Path, make_npz: MakeNpz, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, f"data.name=npz:{make_npz()}", "data.size=9")
    first = protect(run)
    before = mtimes(run / "protected")
    assert protect(run) == first
    assert mtimes(run / "protected") == before
    assert "nothing to do" in capsys.readouterr().err


def test_other_inputs_or_damaged_files_are_not_overwritten(
    tmp_path: Path, make_npz: MakeNpz
) -> None:
    run = make_run(tmp_path, f"data.name=npz:{make_npz()}", "data.size=9")
    protect(run)
    before = mtimes(run / "protected")
    with pytest.raises(UserError, match="other protected images"):
        protect(run, at="training")
    assert mtimes(run / "protected") == before
    (file,) = (run / "protected").glob("*.npz")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match="changed since"):
        protect(run)


def test_other_perturbations_are_other_inputs(tmp_path: Path, make_npz: MakeNpz) -> None:
    source = make_npz()
    run = make_run(tmp_path, f"data.name=npz:{source}", "data.size=9")
    protect(run)
    make_run(tmp_path, f"data.name=npz:{source}", "data.size=9", seed=5)
    with pytest.raises(UserError, match="other protected images"):
        protect(run)


@pytest.mark.parametrize("kind", ["same", "inside", "parent", "link", "link inside", "class link"])
def test_source_folder_is_never_touched(tmp_path: Path, kind: str) -> None:
    home = tmp_path / "home"
    source = make_images(home / "source", [(8, 8)])
    elsewhere = source / "elsewhere"
    (source / "train" / "dog").rename(elsewhere)
    (source / "train" / "dog").symlink_to(elsewhere)
    (tmp_path / "link").symlink_to(source)
    run = make_run(tmp_path, f"data.name=folder:{source}", "data.size=8")
    out = {
        "same": source,
        "inside": source / "train" / "new",
        "parent": home,
        "link": tmp_path / "link",
        "link inside": tmp_path / "link" / "new",
        "class link": elsewhere / "new",
    }[kind]
    before = mtimes(tmp_path)
    with pytest.raises(UserError, match="would touch the source"):
        protect(run, out=out)
    assert {path: before[path] for path in before} == {
        path: time for path, time in mtimes(tmp_path).items() if path in before
    }


def test_source_file_is_never_touched(tmp_path: Path, make_npz: MakeNpz) -> None:
    source = make_npz()
    (tmp_path / "link.npz").symlink_to(source)
    run = make_run(tmp_path, f"data.name=npz:{source}", "data.size=9")
    before = source.read_bytes()
    for out in (source, tmp_path / "link.npz", tmp_path):
        with pytest.raises(UserError, match="would touch the source"):
            protect(run, out=out)
    assert source.read_bytes() == before


@pytest.mark.parametrize("kind", ["file", "folder", "dangling link", "run"])
def test_what_exists_and_is_not_ours_stays(tmp_path: Path, make_npz: MakeNpz, kind: str) -> None:
    run = make_run(tmp_path, f"data.name=npz:{make_npz()}", "data.size=9")
    out = run if kind == "run" else tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    elif kind == "folder":
        (out / "mine").mkdir(parents=True)
    elif kind == "dangling link":
        out.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="exists and is not"):
        protect(run, out=out)
    assert os.path.lexists(out)
    assert not (tmp_path / "nowhere").exists()


def test_image_that_vanishes_midway_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_images(tmp_path / "source", [(8, 8), (8, 8)])
    run = make_run(tmp_path, f"data.name=folder:{source}", "data.size=8")
    written: list[Path] = []
    save = Image.Image.save

    def vanishing(self: Image.Image, path: Path, **options: Any) -> None:
        save(self, path, **options)
        written.append(path)
        (source / "train" / "dog" / "image1.png").unlink(missing_ok=True)

    monkeypatch.setattr(Image.Image, "save", vanishing)
    with pytest.raises(UserError, match=r"image1\.png"):
        protect(run)
    assert written
    assert_nothing_beside(run / "protected")


def test_full_disk_leaves_nothing(
    tmp_path: Path, make_npz: MakeNpz, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, f"data.name=npz:{make_npz()}", "data.size=9")
    rows, calls = module.rows, iter(range(9))

    def failing(image: NDArray[np.uint8]) -> Any:
        if next(calls) == 5:
            raise OSError(28, "No space left on device")
        return rows(image)

    monkeypatch.setattr(module, "to_hwc", failing)
    with pytest.raises(UserError, match=r"nothing was written .*No space left"):
        protect(run)
    assert_nothing_beside(run / "protected")


def test_truncated_npz_source_leaves_nothing(tmp_path: Path, make_npz: MakeNpz) -> None:
    source = make_npz()
    run = make_run(tmp_path, f"data.name=npz:{source}", "data.size=9")
    stat = source.stat()
    content = bytearray(source.read_bytes())
    middle = content.index(b"test_images.npy") + 200
    content[middle : middle + 50] = bytes(50)
    source.write_bytes(content)
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(UserError):
        protect(run)
    assert_nothing_beside(run / "protected")


# -- runs that do not fit ------------------------------------------------------------------------


def test_data_set_that_has_changed_is_refused(tmp_path: Path, make_npz: MakeNpz) -> None:
    run = make_run(tmp_path, f"data.name=npz:{make_npz()}", "data.size=9")
    make_npz(train_labels=np.zeros((12, 1), np.uint8))
    with pytest.raises(UserError, match="has changed"):
        protect(run)


def test_perturbations_beyond_eps_are_refused(tmp_path: Path, make_npz: MakeNpz) -> None:
    run = make_run(tmp_path, f"data.name=npz:{make_npz()}", "data.size=9", scale=1.1)
    with pytest.raises(UserError, match="beyond eps"):
        protect(run)


def test_zero_perturbation_reports_unchanged_images(tmp_path: Path, make_npz: MakeNpz) -> None:
    source = make_npz()
    run = make_run(tmp_path, f"data.name=npz:{source}", "data.size=9", scale=0.0)
    report = protect(run)
    found = report.visibility
    assert (found.linf, found.unchanged, found.l2_mean, found.psnr_mean) == (0, 12, 0, None)
    assert found.ssim_mean == pytest.approx(1)
    assert "PSNR -" in str(report)
    with np.load(source) as old:
        np.testing.assert_array_equal(read_train(run / "protected"), old["train_images"])


def test_originals_are_read_in_the_order_of_the_training_images(tmp_path: Path) -> None:
    source = make_images(tmp_path / "source", [(8, 8), (8, 8)])
    config = load_config(
        overrides=[f"data.name=folder:{source}", "data.size=8", f"data.root={tmp_path}"]
    )
    images = np.stack(list(open_source(config.data).split("train").images()))
    np.testing.assert_array_equal(images, prepare_dataset(config.data).train.images)
