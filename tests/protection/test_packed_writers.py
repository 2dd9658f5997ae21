"""`protect` on Parquet files, Hugging Face's cache and tar shards: written back as they came."""

import io
import shutil
import tarfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from bigbatch_ue.config.sections import DataConfig
from bigbatch_ue.data.datasets import open_source
from bigbatch_ue.data.decoded import prepare_dataset
from bigbatch_ue.data.source import PARTS, Pixels
from bigbatch_ue.evaluation.external_images import load_external_images
from bigbatch_ue.files.formats import read_json
from bigbatch_ue.protection.perturbations import protected_images
from bigbatch_ue.protection.protect import perturb, protect
from bigbatch_ue.runtime.errors import UserError
from tests.helpers.images import make_images, npz_train_images
from tests.helpers.packed import CLASSES, files_of, hugging_face, write_parquet, write_tars
from tests.helpers.runs import load_learned, make_run
from tests.helpers.sources import images, opened

SIZES = [(8, 8), (16, 16), (31, 20)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return named_apart(make_images(tmp_path / "folder", SIZES))


def named_apart(folder: Path) -> Path:
    """Give the images names that differ in all classes, and another format."""
    for path in folder.rglob("*.png"):
        Image.open(path).save(path.with_name(f"{path.parent.name}-{path.stem}.webp"), lossless=True)
        path.unlink()
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")


def expected_of(run: Path, name: str, root: Path) -> list[Pixels]:
    """What protection makes of each train image that the run has."""
    data, learned = load_learned(run)
    split = open_source(DataConfig(name=name, root=root)).split("train")
    originals = split.decode(data.train.positions)
    pairs = zip(originals, learned.assignment, strict=True)
    return [perturb(image, learned.delta[index], learned.eps) for image, index in pairs]


def assert_same(found: list[Pixels], expected: list[Pixels]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_parquet_files_come_back_with_other_images_alone(folder: Path, tmp_path: Path) -> None:
    source = write_parquet(folder, tmp_path / "source")
    shutil.copy(
        source / "data" / "test-00000-of-00002.parquet",
        source / "data" / "validation-00000-of-00001.parquet",
    )
    name = f"parquet:{source}"
    run = make_run(tmp_path, f"data.name={name}", "data.size=8")
    report = protect(run)
    out = run / "protected"
    assert (report.form, report.visibility.images, report.visibility.linf) == ("parquet", 6, 16)
    files = [path.relative_to(source) for path in sorted(source.rglob("*.parquet"))]
    assert [path.relative_to(out) for path in sorted(out.rglob("*.parquet"))] == files
    for file in files:
        before, after = pq.ParquetFile(source / file), pq.ParquetFile(out / file)
        assert after.schema_arrow.equals(before.schema_arrow, check_metadata=True)
        if not file.name.startswith("train"):
            assert (out / file).read_bytes() == (source / file).read_bytes()
    assert_same(images(opened(f"parquet:{out}", tmp_path)), expected_of(run, name, tmp_path))
    theirs = datasets.load_dataset(str(out))["train"]
    ours = hugging_face(folder)["train"]
    assert theirs.features == ours.features
    for column in ("label", "source"):
        assert theirs[column] == ours[column]
    rows = theirs.cast_column("image", datasets.Image(decode=False))["image"]
    assert [row["path"] for row in rows][:2] == ["cat-image0.png", "cat-image1.png"]
    assert all(row["bytes"].startswith(b"\x89PNG") for row in rows)
    assert "2 columns" not in str(read_json(out / "protected.json")["source"]["left_out"])
    assert "1 columns that are not read" in str(
        read_json(out / "protected.json")["source"]["left_out"]
    )


@pytest.mark.parametrize("form", ["saved", "folder"])
def test_the_cache_of_datasets_comes_back_as_on_the_hub(
    form: str, folder: Path, tmp_path: Path
) -> None:
    place = tmp_path / "source"
    if form == "saved":
        hugging_face(folder).save_to_disk(place)
    else:
        write_parquet(folder, place)
    run = make_run(tmp_path, f"data.name=hf:{place}", "data.size=8")
    assert protect(run).form == "parquet"
    out = run / "protected"
    assert sorted(path.name for path in out.rglob("*.parquet")) == [
        "test-00000-of-00001.parquet",
        "train-00000-of-00001.parquet",
    ]
    found = opened(f"hf:{out}", tmp_path)
    assert found.classes == CLASSES
    assert_same(images(found), expected_of(run, f"hf:{place}", tmp_path))
    assert_same(images(found, "test"), images(opened(f"hf:{place}", tmp_path), "test"))


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]


def test_tar_shards_come_back_with_other_images_alone(folder: Path, tmp_path: Path) -> None:
    source = write_tars(folder, tmp_path / "source", per_shard=4)
    shutil.copy(source / "test-000.tar", source / "val-000.tar")
    name = f"wds:{source}"
    run = make_run(tmp_path, f"data.name={name}", "data.size=8")
    report = protect(run)
    out = run / "protected"
    assert (report.form, report.visibility.images, report.visibility.linf) == ("wds", 6, 16)
    files = sorted(path.name for path in source.iterdir())
    assert sorted(path.name for path in out.iterdir()) == sorted([*files, "protected.json"])
    for file in files:
        if not file.startswith("train"):
            assert (out / file).read_bytes() == (source / file).read_bytes()
            continue
        before, after = members(source / file), members(out / file)
        assert list(after) == [member.replace(".webp", ".png") for member in before]
        for member, content in after.items():
            assert member.endswith(".png") or content == before[member]
    found = opened(f"wds:{out}", tmp_path)
    assert found.classes == CLASSES
    assert_same(images(found), expected_of(run, name, tmp_path))
    shards = [str(path) for path in sorted(out.glob("train-*.tar"))]
    read = webdataset.WebDataset(shards, shardshuffle=False, empty_check=False).decode("pil")
    for sample, (path, label) in zip(read, files_of(folder, "train"), strict=True):
        assert (sample["__key__"], sample["cls"], sample["txt"]) == (
            path.stem,
            label,
            f"of {path.name}",
        )
        assert sample["png"].size == Image.open(path).size


@pytest.mark.parametrize("kind", ["parquet", "wds"])
def test_images_beyond_the_limit_are_not_written(kind: str, folder: Path, tmp_path: Path) -> None:
    write = write_parquet if kind == "parquet" else write_tars
    name = f"{kind}:{write(folder, tmp_path / 'source')}"
    run = make_run(tmp_path, f"data.name={name}", "data.size=8", "data.limit=4")
    assert protect(run).visibility.images == 4
    found = opened(f"{kind}:{run / 'protected'}", tmp_path)
    assert_same(images(found), expected_of(run, name, tmp_path))
    assert len(images(found, "test")) == 6


@pytest.mark.parametrize("kind", ["parquet", "wds"])
@pytest.mark.parametrize("form", ["png", "npz"])
def test_other_forms_are_written_when_asked(
    kind: str, form: Any, folder: Path, tmp_path: Path
) -> None:
    write = write_parquet if kind == "parquet" else write_tars
    name = f"{kind}:{write(folder, tmp_path / 'source')}"
    run = make_run(tmp_path, f"data.name={name}", "data.size=8")
    protect(run, form=form, at="training")
    if form == "npz":
        assert npz_train_images(run / "protected").shape == (6, 8, 8, 3)
        return
    found = sorted(path.relative_to(run / "protected") for path in run.rglob("*.png"))
    assert [str(path) for path in found][:2] == [
        "train/cat/cat-image0.png",
        "train/cat/cat-image1.png",
    ]


def test_a_form_that_the_images_do_not_come_in_is_refused(folder: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path, f"data.name=folder:{folder}", "data.size=8")
    with pytest.raises(UserError, match="form=wds: the images do not come in it"):
        protect(run, form="wds")


def test_nothing_is_written_into_the_folder_of_the_shards(folder: Path, tmp_path: Path) -> None:
    source = write_tars(folder, tmp_path / "source")
    run = make_run(tmp_path, f"data.name=wds:{source}/{{train,test}}-*.tar", "data.size=8")
    with pytest.raises(UserError, match="overlaps the source"):
        protect(run, out=source / "protected")


def test_a_member_of_the_name_of_the_png_is_refused(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    buffer = io.BytesIO()
    Image.effect_noise((8, 8), 50).save(buffer, "JPEG")
    for part in PARTS:
        with webdataset.TarWriter(str(source / f"{part}.tar")) as tar:
            for key in "abcd":
                content = buffer.getvalue()
                tar.write(
                    {"__key__": key, "jpg": content, "png": content, "cls": "abcd".index(key)}
                )
    run = make_run(tmp_path, f"data.name=wds:{source}", "data.size=8", "data.take.image=jpg")
    with pytest.raises(UserError, match=r"a\.jpg would be written as png, which its sample has"):
        protect(run)
    assert not (run / "protected").exists()
    assert protect(run, form="png").visibility.images == 4


@pytest.mark.parametrize("kind", ["parquet", "wds"])
def test_written_files_are_evaluated_as_images_of_another_program(
    kind: str, folder: Path, tmp_path: Path
) -> None:
    write = write_parquet if kind == "parquet" else write_tars
    source = write(folder, tmp_path / "source")
    run = make_run(tmp_path, f"data.name={kind}:{source}", "data.size=8")
    protect(run, at="training")
    data, learned = load_learned(run)
    config = DataConfig(name=f"{kind}:{source}", root=tmp_path, size=8)
    clean = prepare_dataset(config)
    found = load_external_images(f"{kind}:{run / 'protected'}", clean, config.take)
    expected = protected_images(data.train.images, learned.delta, learned.assignment, learned.eps)
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(UserError, match="identical to the clean ones"):
        load_external_images(f"{kind}:{source}", clean, config.take)
    other = write(named_apart(make_images(tmp_path / "other", [(8, 8)])), tmp_path / "few")
    with pytest.raises(UserError, match="contains 2 train images, but the clean set 6"):
        load_external_images(f"{kind}:{other}", clean, config.take)
