"""`protect`: written files, their report, and what is never overwritten."""

import math
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from bigbatch_ue.config.load import load_config
from bigbatch_ue.data.datasets import open_source
from bigbatch_ue.data.decoded import prepare_dataset
from bigbatch_ue.files.formats import read_json, write_json
from bigbatch_ue.protection import writers
from bigbatch_ue.protection.perturbations import to_eight_bit
from bigbatch_ue.protection.protect import hash_files, protect
from bigbatch_ue.protection.visibility import Visibility
from bigbatch_ue.runtime.errors import UserError
from tests.conftest import MakeNpz
from tests.helpers.images import make_images, mtimes, npz_train_images
from tests.helpers.runs import load_learned, make_run


def assert_nothing_beside(out: Path) -> None:
    """Neither the output nor a half-written temporary of it is there."""
    assert not [path for path in out.parent.iterdir() if path.name.strip(".").startswith(out.name)]


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
        after = npz_train_images(out)
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


def test_originals_of_mixed_sizes_get_the_resized_perturbation(tmp_path: Path) -> None:
    sizes = [(8, 8), (16, 16), (31, 20), (5, 40)]
    source = make_images(tmp_path / "source", sizes)
    run = make_run(tmp_path, f"data.name=folder:{source}", "data.size=16")
    report = protect(run)
    data, perturbations = load_learned(run)
    assert (report.form, report.at) == ("png", "original")
    assert (report.visibility.images, report.visibility.linf) == (8, 16)
    for name, cluster in zip(data.train.names, perturbations.assignment, strict=True):
        before = np.asarray(Image.open(source / "train" / name)).astype(int)
        after = np.asarray(Image.open(run / "protected" / "train" / name)).astype(int)
        assert after.shape == before.shape
        assert np.abs(after - before).max() <= 16
        if before.shape[:2] == (16, 16):
            units = to_eight_bit(perturbations.delta[cluster], perturbations.eps)
            expected = np.clip(before + units.transpose(1, 2, 0), 0, 255)
            np.testing.assert_array_equal(after, expected)
        inside = (before > 20) & (before < 235)
        delta = torch.from_numpy(perturbations.delta[cluster])[None]
        larger = torch.nn.functional.interpolate(
            delta, before.shape[:2], mode="bilinear", antialias=True
        )[0].permute(1, 2, 0)
        if before.shape[0] <= 16 and before.shape[1] <= 16:
            assert np.abs((after - before) - 255 * larger.numpy())[inside].max() <= 0.501


def test_npz_of_mixed_sizes_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    source = make_images(tmp_path / "source", [(8, 8), (9, 8)])
    run = make_run(tmp_path, f"data.name=folder:{source}", "data.size=8")
    with pytest.raises(UserError, match=r"all images need one size, but some are 8x8 and 9x8"):
        protect(run, form="npz")
    assert_nothing_beside(run / "protected")
    report = protect(run, form="npz", at="training")
    assert npz_train_images(report.folder).shape == (4, 8, 8, 3)


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


def test_reports_of_earlier_versions_with_lpips_are_read(tmp_path: Path, make_npz: MakeNpz) -> None:
    run = make_run(tmp_path, f"data.name=npz:{make_npz()}", "data.size=9")
    report = protect(run)
    path = run / "protected" / "protected.json"
    manifest = read_json(path)
    assert manifest["report"]["visibility"]["lpips_mean"] is None
    manifest["report"]["visibility"]["lpips_mean"] = 0.01
    write_json(path, manifest)
    assert protect(run).visibility == replace(report.visibility, lpips_mean=0.01)


def test_other_inputs_or_damaged_files_are_not_overwritten(
    tmp_path: Path, make_npz: MakeNpz
) -> None:
    run = make_run(tmp_path, f"data.name=npz:{make_npz()}", "data.size=9")
    protect(run)
    before = mtimes(run / "protected")
    with pytest.raises(UserError, match="contains other protected images"):
        protect(run, at="training")
    assert mtimes(run / "protected") == before
    (file,) = (run / "protected").glob("*.npz")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match="modified after protection"):
        protect(run)


def test_other_perturbations_are_other_inputs(tmp_path: Path, make_npz: MakeNpz) -> None:
    source = make_npz()
    run = make_run(tmp_path, f"data.name=npz:{source}", "data.size=9")
    protect(run)
    make_run(tmp_path, f"data.name=npz:{source}", "data.size=9", seed=5)
    with pytest.raises(UserError, match="contains other protected images"):
        protect(run)


def test_images_that_have_moved_are_protected_at_their_new_place(tmp_path: Path) -> None:
    source = make_images(tmp_path / "here", [(20, 14), (12, 12)])
    run = make_run(tmp_path, f"data.name=folder:{source}", "data.size=9")
    protect(run, out=tmp_path / "before")
    copy = tmp_path / "there"
    shutil.copytree(source, copy, copy_function=shutil.copyfile)
    shutil.rmtree(source)
    with pytest.raises(UserError, match="no such folder"):
        protect(run, out=tmp_path / "after")
    protect(run, place=f"folder:{copy}", out=tmp_path / "after")
    assert hash_files(tmp_path / "after") == hash_files(tmp_path / "before")
    Image.new("RGB", (12, 12)).save(next(copy.rglob("*.png")))
    with pytest.raises(UserError, match="has changed since this run; train again"):
        protect(run, place=f"folder:{copy}", out=tmp_path / "other")


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
    with pytest.raises(UserError, match="overlaps the source"):
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
        with pytest.raises(UserError, match="overlaps the source"):
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
    convert, calls = writers.to_hwc, iter(range(9))

    def failing(image: NDArray[np.uint8]) -> Any:
        if next(calls) == 5:
            raise OSError(28, "No space left on device")
        return convert(image)

    monkeypatch.setattr(writers, "to_hwc", failing)
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


def test_zero_perturbation_reports_unchanged_images(tmp_path: Path, make_npz: MakeNpz) -> None:
    source = make_npz()
    run = make_run(tmp_path, f"data.name=npz:{source}", "data.size=9", scale=0.0)
    report = protect(run)
    found = report.visibility
    assert (found.linf, found.unchanged, found.l2_mean, found.psnr_mean) == (0, 12, 0, None)
    assert found.ssim_mean == pytest.approx(1)
    assert "PSNR -" in str(report)
    with np.load(source) as old:
        np.testing.assert_array_equal(npz_train_images(run / "protected"), old["train_images"])


def test_originals_are_read_in_the_order_of_the_training_images(tmp_path: Path) -> None:
    source = make_images(tmp_path / "source", [(8, 8), (8, 8)])
    config = load_config(
        overrides=[f"data.name=folder:{source}", "data.size=8", f"data.root={tmp_path}"]
    )
    images = np.stack(list(open_source(config.data).split("train").images()))
    np.testing.assert_array_equal(images, prepare_dataset(config.data).train.images)


def test_links_among_protected_images_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "secret").write_text("a")
    (tmp_path / "out" / "a.png").symlink_to(tmp_path / "secret")
    linked = hash_files(tmp_path / "out")
    (tmp_path / "secret").write_text("b")
    assert hash_files(tmp_path / "out") == linked
