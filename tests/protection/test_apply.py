"""`apply` and `export`: images that came later get the perturbation of their cluster."""

import re
import shutil
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bigbatch_ue.cli.commands import main
from bigbatch_ue.data.decoded import dataset_of_run
from bigbatch_ue.files.formats import read_json
from bigbatch_ue.protection.apply import ApplyReport, apply_protector
from bigbatch_ue.protection.protect import protect
from bigbatch_ue.protection.protector import Protector, open_protector
from bigbatch_ue.runs.folder import load_run
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.training.train import train
from tests.helpers.command_line import Cli, cli_of
from tests.helpers.hub import a_hub
from tests.helpers.images import make_images
from tests.helpers.runs import tiny
from tests.helpers.sources import PHOTO, save

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


def test_an_export_contains_no_image_no_path_and_no_user(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("USER", "LOGNAME"):
        monkeypatch.setenv(variable, "someone-else")
    out = tmp_path / "export"
    open_protector(run).save(out)
    names = {path.name for path in out.iterdir()}
    own = {"protector.json", "protector.safetensors", "README.md"}
    assert names - {"surrogate.safetensors"} == own
    config, folders = load_run(run)
    images = dataset_of_run(config, folders).train.images
    secrets = ["image0", "someone-else", str(Path.home()), str(run.parent)]
    secrets += [config.data.name, str(config.data.root)]
    for path in out.iterdir():
        content = path.read_bytes()
        assert not [secret for secret in secrets if secret.encode() in content], path.name
        for image in images:
            for pixels_of in (image, image.astype(np.float32), image / np.float32(255)):
                assert pixels_of[0, 0].tobytes() not in content


def test_an_export_is_a_repository_that_the_hub_takes_as_it_is(run: Path, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    out = tmp_path / "export"
    open_protector(run).save(out)
    card = hub.ModelCard.load(out / "README.md")
    assert card.data.to_dict() == {
        "library_name": "bigbatch-ue",
        "tags": ["unlearnable-examples", "unlearnable-clusters", "data-protection"],
    }
    assert card.text.strip().startswith("# Protector of ")
    assert ("licence of its weights" in card.text) is (out / "surrogate.safetensors").exists()
    files = [hub.CommitOperationAdd(path.name, path) for path in out.iterdir()]
    with a_hub() as (endpoint, received):
        hub.HfApi(endpoint, token="hf_test").create_commit("user/name", files, commit_message="new")
    assert received == {path.name: path.read_bytes() for path in out.iterdir()}
    assert {f"`{name}`" for name in received} - {"`README.md`"} <= set(
        re.findall("`.*?`", card.text)
    )
    downloaded = tmp_path / "downloaded"
    (downloaded / ".cache" / "huggingface").mkdir(parents=True)
    for name, content in {**received, ".gitattributes": b"*.safetensors filter=lfs\n"}.items():
        (downloaded / name).write_bytes(content)
    assert np.array_equal(open_protector(downloaded).delta, open_protector(run).delta)


def test_the_names_of_classes_do_not_disturb_a_card(run: Path, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    protector = open_protector(run)
    named = {"classes": ["Blüten: {0}", "---"], "title": "a: \N{EM DASH}\n---\nlicense: mit"}
    settings = protector.settings.model_copy(update=named)
    replace(protector, settings=settings).save(tmp_path / "export")
    card = hub.ModelCard.load(tmp_path / "export" / "README.md")
    assert "Classes: Blüten: {0}, ---." in card.text
    assert set(card.data.to_dict()) == {"library_name", "tags"}


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


def with_classes(run: Path) -> Protector:
    """The protector of a run; skips the test if its clusters ignore classes."""
    protector = open_protector(run)
    if not protector.needs_classes:
        pytest.skip("classes do not matter")
    return protector


def labels_of(protector: Protector, report: ApplyReport) -> dict[str, int]:
    """How many images were written with a perturbation of each class."""
    counts: dict[str, int] = {}
    for cluster, count in report.clusters.items():
        name = protector.settings.classes[protector.labels[cluster]]
        counts[name] = counts.get(name, 0) + count
    return counts


def test_a_named_class_may_not_contradict_the_folders(run: Path, tmp_path: Path) -> None:
    protector, new = with_classes(run), make_images(tmp_path / "new", SIZES[:3]) / "test"
    out = tmp_path / "out"
    for paths in ([new], [new / "dog"], [new / "dog" / f"image{i}.png" for i in range(3)]):
        with pytest.raises(UserError) as caught:
            apply_protector(protector, paths, out, class_name="cat")
        first, folder = new / "dog" / "image0.png", new / "dog"
        assert str(caught.value) == (
            f"{first} and 2 more: in {folder}, which is named after another class than --class "
            "cat; leave --class out, so that each image gets the class of its folder"
        )
    assert not out.exists()
    report = apply_protector(protector, [new / "cat"], out, class_name="cat")
    assert labels_of(protector, report) == {"cat": 3}


def test_images_in_no_class_folder_are_counted_and_the_others_can_be_protected(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    protector, new = with_classes(run), make_images(tmp_path / "new", SIZES[:3]) / "test"
    strays = [save(new / f"stray{i}.png", PHOTO) for i in range(3)]
    (new / "dog" / "notes.txt").write_text("no image")
    with pytest.raises(UserError) as caught:
        apply_protector(protector, [new], tmp_path / "out")
    assert str(caught.value) == (
        f"{strays[0]} and 2 more: in no folder that is named after a class (cat, dog); protect "
        "them by themselves, with --class, and the others by naming their class folders one by "
        f"one, such as {new / 'cat'}"
    )
    with pytest.raises(UserError, match=r"add --class, or put each into a folder that is named"):
        apply_protector(protector, strays, tmp_path / "out")
    (tmp_path / "dog").mkdir()
    monkeypatch.chdir(tmp_path / "dog")
    for place in (Path(".."), tmp_path / "dog" / ".."):
        with pytest.raises(UserError, match=r"stray0.png: in no folder"):
            apply_protector(protector, [place / "new/test/stray0.png"], tmp_path / "out")
    report = apply_protector(protector, [new / "cat", new / "dog"], tmp_path / "out")
    assert labels_of(protector, report) == {"cat": 3, "dog": 3}
    assert report.left_out == ["dog/notes.txt"]
    written = {f"{name}/image{i}.png" for name in ("cat", "dog") for i in range(3)}
    assert pixels(tmp_path / "out").keys() == written
    report = apply_protector(protector, strays, tmp_path / "strays", class_name="dog")
    assert labels_of(protector, report) == {"dog": 3}


def test_classes_are_known_in_either_form_of_unicode(run: Path, tmp_path: Path) -> None:
    nfc, nfd = (unicodedata.normalize(form, "Blüten") for form in ("NFC", "NFD"))
    photograph = save(tmp_path / "b.png", PHOTO)
    for own, other in ((nfc, nfd), (nfd, nfc)):
        protector = with_classes(run)
        protector.settings.classes[1] = own
        in_folder = save(tmp_path / other / "a.png", PHOTO)
        report = apply_protector(protector, [in_folder], tmp_path / f"{own!a}-1")
        assert labels_of(protector, report) == {own: 1}
        out = tmp_path / f"{own!a}-2"
        report = apply_protector(protector, [photograph, in_folder], out, class_name=other)
        assert labels_of(protector, report) == {own: 2}


def test_only_the_new_images_are_spoken_of(run: Path, cli: Cli, tmp_path: Path) -> None:
    new = make_images(tmp_path / "new", SIZES[:2]) / "test" / "cat"
    for suffix in ("bmp", "png"):
        save(new / f"x.{suffix}", Image.new("L", (9, 9)))
    code, said, noted = cli("apply", run, new, "--out", tmp_path / "out")
    assert code == 0
    assert "photographs" not in noted
    assert said.splitlines()[1:] == [
        "2 grey among colour images, so taken in colour, such as x.bmp",
        "2 images with the old suffix kept, such as x.bmp.png",
    ]
    assert read_json(tmp_path / "out" / "applied.json", dict)["changes"] == said.splitlines()[1:]


def test_a_class_that_has_no_effect_is_said(run: Path, cli: Cli, tmp_path: Path) -> None:
    photograph = save(tmp_path / "a.png", PHOTO)
    _, _, noted = cli("apply", run, photograph, "--out", tmp_path / "out", "--class", "cat")
    ignored = "--class cat: has no effect; this collection's clusters ignore classes" in noted
    assert ignored is not open_protector(run).needs_classes


def test_all_unreadable_images_are_named_at_once(run: Path, tmp_path: Path) -> None:
    new = make_images(tmp_path / "new", SIZES[:2]) / "test"
    (new / "cat" / "empty.png").touch()
    for name in ("cat", "dog"):
        cut = new / name / "image1.png"
        cut.write_bytes(cut.read_bytes()[:-60])
    protector = open_protector(run)
    with pytest.raises(UserError, match=f"{new}: 3 image .* cat/empty.png is empty .0 bytes., cat"):
        apply_protector(protector, [new], tmp_path / "out")
    (new / "cat" / "empty.png").unlink()
    with pytest.raises(UserError, match=rf"{new}: 2 image .* dog/image1\.png cannot be read as"):
        apply_protector(protector, [new], tmp_path / "out")
    assert not (tmp_path / "out").exists()


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
    alike = [save(tmp_path / place / "a.png", PHOTO) for place in ("cat", "dog")]
    with pytest.raises(UserError, match=f"{alike[0]}, {alike[1]}: would get the same name"):
        apply_protector(protector, alike, out)
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
