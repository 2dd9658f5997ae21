"""`apply` and `export`: images that came later get the perturbation of their cluster."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bigbatch_ue.cli.commands import main
from bigbatch_ue.files.formats import read_json
from bigbatch_ue.protection.apply import apply_protector
from bigbatch_ue.protection.protect import protect
from bigbatch_ue.protection.protector import open_protector
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.training.train import train
from tests.helpers.command_line import Cli, cli_of
from tests.helpers.images import make_images
from tests.helpers.runs import tiny

SIZES = [(12, 12), (9, 16), (16, 9), (8, 8), (20, 20), (11, 11)]


@pytest.fixture(scope="module", params=["labels", "nested", "features"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on photographs of two classes, protected."""
    folder = tmp_path_factory.mktemp(request.param)
    source = make_images(folder / "photographs", SIZES)
    count = {"features": 3, "nested": 4, "labels": 2}[request.param]
    settings = (f"data.name=folder:{source}", f"clusters.by={request.param}", "budget.steps=1")
    trained = train(tiny(folder, *settings, f"clusters.count={count}"))
    protect(trained.folder)
    return trained.folder


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return cli_of(main, capsys)


def pixels(folder: Path) -> dict[str, np.ndarray]:
    return {
        path.relative_to(folder).as_posix(): np.asarray(Image.open(path))
        for path in sorted(folder.rglob("*.png"))
    }


def test_images_of_the_collection_get_what_protect_gave_them(
    run: Path, cli: Cli, tmp_path: Path
) -> None:
    exported, from_run, from_export = (tmp_path / name for name in ("export", "one", "two"))
    train_images = run.parent / "photographs" / "train"
    assert cli("export", run, "--out", exported)[0] == 0
    assert cli("apply", run, train_images, "--out", from_run)[0] == 0
    shutil.move(run.parent / "photographs", run.parent / "away")
    try:
        code, said, _ = cli("apply", exported, run.parent / "away" / "train", "--out", from_export)
    finally:
        shutil.move(run.parent / "away", run.parent / "photographs")
    assert code == 0
    assert "12 images in" in said
    expected = pixels(run / "protected" / "train")
    assert len(expected) == 12
    for written in (pixels(from_run), pixels(from_export)):
        assert written.keys() == expected.keys()
        assert all(np.array_equal(written[name], expected[name]) for name in expected)
    kept = read_json(from_run / "applied.json", dict)
    assert sum(kept["clusters"].values()) == 12
    assert kept["visibility"]["linf"] <= 16


def test_an_export_contains_no_image_and_no_path(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "export"
    open_protector(run).save(out)
    names = {path.name for path in out.iterdir()}
    own = {"protector.json", "protector.safetensors", "README.md"}
    assert names - {"surrogate.safetensors"} == own
    for name in ("protector.json", "README.md"):
        text = (out / name).read_text()
        assert str(run.parent) not in text
        assert "image0" not in text
    assert b"image0" not in (out / "protector.safetensors").read_bytes()


def test_a_single_image_of_a_named_class(run: Path, tmp_path: Path) -> None:
    photograph = tmp_path / "new.jpg"
    Image.effect_noise((30, 20), 90).convert("RGB").save(photograph)
    protector = open_protector(run)
    report = apply_protector(protector, [photograph], tmp_path / "out", class_name="dog")
    assert report.visibility.images == 1
    (cluster,) = report.clusters
    if protector.needs_classes:
        assert protector.settings.classes[protector.labels[cluster]] == "dog"
    assert Image.open(tmp_path / "out" / "new.png").size == (30, 20)


def test_what_cannot_be_applied_is_an_error_and_writes_nothing(run: Path, tmp_path: Path) -> None:
    protector = open_protector(run)
    folder = tmp_path / "new"
    folder.mkdir()
    Image.effect_noise((30, 20), 90).convert("RGB").save(folder / "a.png")
    (folder / "notes.txt").write_text("no image")
    out = tmp_path / "out"
    if protector.needs_classes:
        with pytest.raises(UserError, match=r"a\.png: in no folder that is named after a class"):
            apply_protector(protector, [folder], out)
        with pytest.raises(UserError, match="--class bird: unknown class; allowed: cat, dog"):
            apply_protector(protector, [folder], out, class_name="bird")
    else:
        report = apply_protector(protector, [folder], out)
        assert report.left_out == ["notes.txt"]
        shutil.rmtree(out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="contains no image"):
        apply_protector(protector, [tmp_path / "empty"], out)
    with pytest.raises(UserError, match="overlaps"):
        apply_protector(protector, [folder], folder / "out")
    with pytest.raises(UserError, match="no such file or folder"):
        apply_protector(protector, [tmp_path / "nothing"], out)
    (folder / "b.png").write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"b\.png: cannot be read as an image"):
        apply_protector(protector, [folder], out, class_name="cat")
    assert not out.exists()
    out.mkdir()
    with pytest.raises(UserError, match="out: exists"):
        apply_protector(protector, [folder], out)


def test_a_folder_that_is_neither_run_nor_export_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a run nor an exported protector"):
        open_protector(tmp_path)
