"""Every file of a folder is an image that is taken, or is counted and named by kind."""

from pathlib import Path

import pytest
from PIL import Image

from bigbatch_ue.config.sections import DataConfig
from bigbatch_ue.data.class_folders import open_folder
from bigbatch_ue.data.decoded import prepare_dataset
from bigbatch_ue.data.inventory import describe_left_out, take_inventory
from bigbatch_ue.runtime.errors import UserError
from tests.helpers.images import make_images

STRAYS = {
    "train/cat/DSC_1.NEF": ".NEF, not an image format that is read",
    "train/cat/scan1": "without a suffix",
    "train/cat/._0.png": "hidden",
    "train/cat/.ipynb_checkpoints/0.png": "in hidden folders",
    "train/dog/@eaDir/0.png/thumb.jpg": "in hidden folders",
    "train/.ipynb_checkpoints/0.png": "in hidden folders",
    "train/.DS_Store": "hidden",
    "test/loose.png": "outside the class folders of test/, to be moved into one",
    "val/cat/0.png": "outside train/ and test/, to be moved there",
    "LICENSE": "without a suffix",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes with two images in both parts, and files that are no part of them."""
    folder = make_images(tmp_path / "set", [(8, 8), (9, 12)])
    for name in STRAYS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def test_invariant_8_every_file_is_taken_or_named_by_its_kind(folder: Path) -> None:
    source = open_folder(folder)
    found = {name: reason for reason, names in source.left.items() for name in names}
    assert found == STRAYS
    everything = {file for file in folder.rglob("*") if file.is_file()}
    assert {*source.files(), *(folder / name for name in found)} == everything
    loose = "1 outside the class folders of test/, to be moved into one, such as test/loose.png"
    assert loose in source.left_out()


def test_what_is_left_out_is_said_and_stops_if_strict(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = DataConfig(name=f"folder:{folder}", root=tmp_path, size=8)
    prepare_dataset(data)
    said = capsys.readouterr().err
    assert f"{data.name}: 4 train and 4 test images; left out or changed:" in said
    assert "  1 .NEF, not an image format that is read, such as train/cat/DSC_1.NEF" in said
    with pytest.raises(UserError, match=r"such as .*; remove or convert them, or set data\.strict"):
        prepare_dataset(data.model_copy(update={"strict": True}))


def test_all_links_to_nothing_are_named_at_once(folder: Path, tmp_path: Path) -> None:
    for name in ("x", "y"):
        (folder / "train" / "cat" / f"{name}.png").symlink_to(f"{name}-is-away.png")
    with pytest.raises(
        UserError, match=r"cat/x\.png, .*cat/y\.png: no such file, or a link to none"
    ):
        prepare_dataset(DataConfig(name=f"folder:{folder}", root=tmp_path, size=8))


def test_a_telephone_format_is_read_with_the_extra(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    assert take_inventory(tmp_path, inside=tmp_path).images == []
    heif.from_pillow(Image.new("RGB", (16, 16), "red")).save(tmp_path / "IMG_1.HEIC")
    found = take_inventory(tmp_path, inside=tmp_path)
    assert [image.name for image in found.images] == ["IMG_1.HEIC"]
    assert Image.open(found.images[0]).size == (16, 16)


def test_a_reason_without_files_is_not_said() -> None:
    assert describe_left_out({"hidden": [], "loose": ["a"]}) == ["1 loose, such as a"]
