"""Images in Parquet files, in the cache of `datasets` and in tar shards: as in a folder."""

import io
import json
import re
import shutil
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bigbatch_ue.config.sections import DataConfig
from bigbatch_ue.data.datasets import open_source, require_source
from bigbatch_ue.data.decoded import prepare_dataset
from bigbatch_ue.data.encoded import EncodedImages
from bigbatch_ue.data.source import PARTS, Source
from bigbatch_ue.runtime.errors import UserError
from tests.helpers.packed import (
    CLASSES,
    difficult_folder,
    hugging_face,
    write_parquet,
    write_tars,
)
from tests.helpers.sources import PHOTO, images, opened

Write = Callable[[Path, Path], str]


def write_saved(folder: Path, out: Path) -> str:
    hugging_face(folder).save_to_disk(out)
    return f"hf:{out}"


FORMS: dict[str, Write] = {
    "parquet": lambda folder, out: f"parquet:{write_parquet(folder, out)}",
    "parquet pattern": lambda folder, out: f"parquet:{write_parquet(folder, out)}/data/*.parquet",
    "hf saved": write_saved,
    "hf folder": lambda folder, out: f"hf:{write_parquet(folder, out)}",
    "wds": lambda folder, out: f"wds:{write_tars(folder, out)}",
    "wds pattern": lambda folder, out: (
        f"wds:{write_tars(folder, out)}/{{train,test}}-{{000..002}}.tar"
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return difficult_folder(tmp_path / "folder")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of `datasets` of its own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    return tmp_path / "hf-cache"


def taking(name: str, root: Path, **take: Any) -> Source:
    return open_source(DataConfig.model_validate({"name": name, "root": root, "take": take}))


def message(name: str, root: Path, **take: Any) -> str:
    def read() -> None:
        source = taking(name, root, **take)
        for part in PARTS:
            images(source, part)

    with pytest.raises(UserError) as caught:
        read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("form", FORMS)
def test_a_picture_is_the_same_wherever_it_is_kept(form: str, folder: Path, tmp_path: Path) -> None:
    name = FORMS[form](folder, tmp_path / "packed")
    require_source(DataConfig(name=name, root=tmp_path))
    one, other = opened(f"folder:{folder}", tmp_path), opened(name, tmp_path)
    assert other.classes == one.classes == CLASSES
    assert other.channels == one.channels == 3
    assert other.decoded_otherwise == one.decoded_otherwise
    without_place = [[line.partition(", such as")[0] for line in s.changes()] for s in (one, other)]
    assert without_place[0] == without_place[1]
    assert len(without_place[0]) == 3
    for part in PARTS:
        assert other.split(part).labels.tolist() == one.split(part).labels.tolist()
        names = [Path(name).name for name in one.split(part).names]
        assert other.split(part).names == names
        for expected, image in zip(images(one, part), images(other, part), strict=True):
            np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("form", FORMS)
def test_any_picture_can_be_read_alone(form: str, folder: Path, tmp_path: Path) -> None:
    split = opened(FORMS[form](folder, tmp_path / "packed"), tmp_path).split("train")
    expected = list(split.images())
    assert split.at is not None
    for index in (11, 0, 5, 4, 10, 0):
        np.testing.assert_array_equal(split.at(index), expected[index])
    assert [image.shape for image in split.decode([2, 7])] == [expected[i].shape for i in (2, 7)]


@pytest.mark.parametrize("form", FORMS)
def test_decoded_sets_are_equal_and_a_copy_is_the_same_set(
    form: str, folder: Path, tmp_path: Path
) -> None:
    name = FORMS[form](folder, tmp_path / "packed")
    one, other = (
        prepare_dataset(DataConfig(name=each, root=tmp_path / "root", size=9))
        for each in (f"folder:{folder}", name)
    )
    np.testing.assert_array_equal(one.train.images, other.train.images)
    np.testing.assert_array_equal(one.test.images, other.test.images)
    if form == "hf folder":
        return  # its cache is one of copies
    shutil.copytree(tmp_path / "packed", tmp_path / "copy")
    name = name.replace(str(tmp_path / "packed"), str(tmp_path / "copy"))
    copy = prepare_dataset(DataConfig(name=name, root=tmp_path / "root", size=9))
    assert copy.identity == other.identity


# -- parts and columns ---------------------------------------------------------------------------


def test_no_other_split_takes_the_place_of_test_unasked(folder: Path, tmp_path: Path) -> None:
    table = write_parquet(folder, tmp_path / "table", test="validation")
    tars = write_tars(folder, tmp_path / "tars", test="val")
    loaded = hugging_face(folder)
    loaded["valid"] = loaded.pop("test")
    loaded.save_to_disk(tmp_path / "saved")
    for name, word in (
        (f"parquet:{table}", "validation"),
        (f"wds:{tars}", "val"),
        (f"hf:{table}", "validation"),
        (f"hf:{tmp_path / 'saved'}", "valid"),
    ):
        said = message(name, tmp_path)
        what = rf"'test'.*, but (of )?train, {word}; name the one to use, data\.take\.test=NAME$"
        assert re.search(what, said), said
        source = taking(name, tmp_path, test=word)
        assert len(images(source, "test")) == 12


def test_shards_of_other_splits_are_named(folder: Path, tmp_path: Path) -> None:
    tars = write_tars(folder, tmp_path / "tars")
    shutil.copy(tars / "test-000.tar", tars / "val-000.tar")
    (tars / "notes.md").write_text("x")
    assert opened(f"wds:{tars}", tmp_path).left_out() == [
        "1 not .tar files, such as notes.md",
        "1 of neither data.take.train=train nor data.take.test=test, such as val-000.tar",
    ]


def test_one_of_several_label_columns_is_to_be_named(folder: Path, tmp_path: Path) -> None:
    both = hugging_face(folder)
    for part in PARTS:
        fine = datasets.Features({"fine": datasets.ClassLabel(names=["a", "b", "c"])})
        column = datasets.Dataset.from_dict({"fine": [2, 1, 0] * 4}, features=fine)
        both[part] = datasets.concatenate_datasets([both[part], column], axis=1)
        (tmp_path / "both").mkdir(exist_ok=True)
        both[part].to_parquet(tmp_path / "both" / f"{part}.parquet")
    name = f"parquet:{tmp_path / 'both'}"
    assert "2 columns with labels as whole numbers" in message(name, tmp_path)
    assert message(name, tmp_path).endswith("label, fine; name one, data.take.label=label")
    fine = taking(name, tmp_path, label="fine")
    assert fine.classes == ["a", "b", "c"]
    assert fine.split("train").labels.tolist() == [2, 1, 0] * 4
    assert fine.left_out() == ["2 columns that are not read, such as label"]
    assert "'none' (data.take.label) is not there" in message(name, tmp_path, label="none")
    assert "'source' (data.take.label) contains string" in message(name, tmp_path, label="source")
    assert "'source' (data.take.image) contains string" in message(
        name, tmp_path, image="source", label="fine"
    )


def test_what_is_taken_belongs_to_the_identity_of_a_set(folder: Path, tmp_path: Path) -> None:
    both = hugging_face(folder)
    (tmp_path / "both").mkdir()
    for part in PARTS:
        both[part] = both[part].add_column("other", [1, 0] * 6)
        both[part].to_parquet(tmp_path / "both" / f"{part}.parquet")
    sets = [
        prepare_dataset(
            DataConfig.model_validate(
                {
                    "name": f"parquet:{tmp_path / 'both'}",
                    "root": tmp_path,
                    "size": 9,
                    "take": {"label": label},
                }
            )
        )
        for label in (None, "label", "other")
    ]
    assert sets[0].train.labels.tolist() == sets[1].train.labels.tolist() == [0] * 6 + [1] * 6
    assert sets[2].train.labels.tolist() == [1, 0] * 6
    assert sets[2].identity != sets[1].identity


def test_tables_of_other_programs_are_read(folder: Path, tmp_path: Path) -> None:
    """Encoded bytes and numbers, in one row group, without any metadata."""
    content = [path.read_bytes() for path in sorted((folder / "train" / "cat").iterdir())] * 40
    for part in PARTS:
        table = pa.table({"jpeg": content, "class": [0, 3, 1] * 80})
        pq.write_table(table, tmp_path / f"{part}.parquet", row_group_size=1_000_000)
    source = opened(f"parquet:{tmp_path}/*.parquet", tmp_path)
    assert source.classes == ["0", "1", "2", "3"]
    assert source.split("train").names[:2] == ["00000", "00001"]
    expected = images(opened(f"folder:{folder}", tmp_path))[:6]
    for index, image in enumerate(images(source)):
        np.testing.assert_array_equal(image, expected[index % 6])
    at = source.split("train").at
    assert at is not None
    for index in (239, 3, 70, 64, 200, 0):
        np.testing.assert_array_equal(at(index), expected[index % 6])


# -- damaged and missing things ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["parquet", "wds"])
def test_missing_places_are_named(kind: str, tmp_path: Path) -> None:
    suffix = ".parquet" if kind == "parquet" else ".tar"
    nowhere = tmp_path / "nowhere"
    assert f"{nowhere}: no such file" in message(f"{kind}:{nowhere}", tmp_path)
    pattern = f"{kind}:{tmp_path}/train-{{08..11}}{suffix}"
    assert f"train-08{suffix}, {tmp_path}/train-09{suffix}" in message(pattern, tmp_path)
    nowhere.mkdir()
    assert f"contains no {suffix} file" in message(f"{kind}:{nowhere}", tmp_path)
    both = nowhere / f"train-test{suffix}"
    both.touch()
    assert "is of 'train' and of 'test'" in message(f"{kind}:{nowhere}", tmp_path)
    both.rename(nowhere / "train.tar.gz")
    assert "unpack it" in message(f"{kind}:{nowhere}/train.tar.gz", tmp_path)
    with pytest.raises(UserError, match="no such file"):
        require_source(DataConfig(name=f"{kind}:{tmp_path}/x{suffix}", root=tmp_path))


def test_damaged_tables_are_named(folder: Path, tmp_path: Path) -> None:
    place = write_parquet(folder, tmp_path / "table")
    path = place / "data" / "train-00001-of-00002.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    assert f"{path}: cannot be read" in message(f"parquet:{place}", tmp_path)
    path.write_bytes(b"")
    assert f"{path}: cannot be read" in message(f"parquet:{place}", tmp_path)
    table = pq.read_table(io.BytesIO(whole))
    pq.write_table(table.drop(["label"]), path)
    assert f"{path}: no column with labels" in message(f"parquet:{place}", tmp_path)
    pq.write_table(table.rename_columns(["image", "class", "source"]), path)
    assert f"{path}: has other columns or classes" in message(f"parquet:{place}", tmp_path)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([None] * 2 + [0] * 10, r"2 rows without a label in column 'label'; remove them"),
        ([-1] * 12, r"12 of 12 test images with a label such as -1, outside 0 to 1; remove them"),
        ([0] * 11 + [7], r"1 of 12 test images with a label such as 7, outside 0 to 1"),
    ],
)
def test_labels_that_are_no_classes_are_refused(
    labels: list[Any], said: str, folder: Path, tmp_path: Path
) -> None:
    place = write_parquet(folder, tmp_path / "table", shards=1)
    path = place / "data" / "test-00000-of-00001.parquet"
    table = pq.read_table(path)
    index = table.schema.get_field_index("label")
    pq.write_table(table.set_column(index, table.schema.field(index), pa.array(labels)), path)
    assert re.search(said, message(f"parquet:{place}", tmp_path))


def test_unreadable_pictures_in_tables_are_named(folder: Path, tmp_path: Path) -> None:
    for label in CLASSES:
        path = folder / "train" / label / f"{label}-0.jpg"
        path.write_bytes(path.read_bytes()[:-200])
    place = write_parquet(folder, tmp_path / "table")
    said = message(f"parquet:{place}", tmp_path)
    assert "2 image files are damaged or unreadable: train-00000-of-00002.parquet: row 0 " in said
    tars = write_tars(folder, tmp_path / "tars")
    said = message(f"wds:{tars}", tmp_path)
    assert "2 image files are damaged or unreadable: train-000.tar: cat-0.jpg cannot be" in said


def test_pictures_that_a_table_only_names_are_refused(folder: Path, tmp_path: Path) -> None:
    said = message(f"hf:{folder}", tmp_path)
    assert "row 0 only names a file" in said
    assert said.endswith("or use folder:PATH")


def add(path: Path, members: dict[str, bytes]) -> None:
    """Append members to a tar file."""
    with tarfile.open(path, "a") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def png(size: tuple[int, int] = (8, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"a.png": png(), "a.cls": b"cat"}, "a.cls: 'cat' is not the number of a class"),
        ({"a.png": png(), "a.cls": b"2"}, "1 of 13 train images with a label such as 2"),
        ({"a.png": png(), "a.cls": b"-1"}, "1 of 13 train images with a label such as -1"),
        ({"a.png": png(), "a.json": b"{"}, "a.json is not a JSON object"),
        ({"a.png": png(), "a.json": b'{"label": true}'}, "'True' is not the number"),
        ({"a.png": png(), "a.jpg": png(), "a.cls": b"1"}, "a has several images, png, jpg; name"),
        ({"cat-0.jpg": png(), "cat-0.cls": b"1"}, "cat-0.jpg occurs twice"),
        ({"a.png": png(), "a.cls": b"1", "a.CLS": b"1"}, "a.CLS occurs twice"),
    ],
)
def test_samples_that_are_not_one_image_with_one_label_are_refused(
    members: dict[str, bytes], said: str, folder: Path, tmp_path: Path
) -> None:
    tars = write_tars(folder, tmp_path / "tars", per_shard=100)
    add(tars / "train-000.tar", members)
    assert said in message(f"wds:{tars}", tmp_path)
    assert str(tars / "train-000.tar") in message(f"wds:{tars}", tmp_path)


def test_members_without_their_other_half_are_counted_and_named(
    folder: Path, tmp_path: Path
) -> None:
    tars = write_tars(folder, tmp_path / "tars", per_shard=100)
    halves = {"a.png": png(), "b.cls": b"1", "c.txt": b"x", "d.png": png(), "README": b"x"}
    add(tars / "train-000.tar", halves)
    source = opened(f"wds:{tars}", tmp_path)
    assert len(images(source)) == 12
    assert sorted(source.left_out()) == [
        "1 labels without an image, such as train-000.tar: b.cls",
        "1 without a key and a suffix, such as train-000.tar: README",
        "1 without an image, such as train-000.tar: c.txt",
        "2 images without a label, such as train-000.tar: a.png",
    ]
    data = DataConfig(name=f"wds:{tars}", root=tmp_path, size=8, strict=True)
    with pytest.raises(UserError, match="2 images without a label"):
        prepare_dataset(data)


@pytest.mark.parametrize(
    "cut", ["in a header", "in a content", "between members", "before the end"]
)
def test_a_torn_shard_is_refused(cut: str, folder: Path, tmp_path: Path) -> None:
    tars = write_tars(folder, tmp_path / "tars", per_shard=100)
    path = tars / "train-000.tar"
    with tarfile.open(path) as tar:
        first, *_, last = tar.getmembers()
    length = {
        "in a header": last.offset_data - 100,
        "in a content": first.offset_data + 1,
        "between members": last.offset,
        "before the end": last.offset_data + 512,
    }[cut]
    with path.open("r+b") as file:
        file.truncate(length)
    said = message(f"wds:{tars}", tmp_path)
    assert f"{path}: torn: it ends at byte {length:,} without the mark of its end" in said


def test_a_damaged_header_is_refused(folder: Path, tmp_path: Path) -> None:
    tars = write_tars(folder, tmp_path / "tars", per_shard=100)
    path = tars / "train-000.tar"
    with tarfile.open(path) as tar:
        third = tar.getmembers()[2]
    with path.open("r+b") as file:
        file.seek(third.offset_data - 512 + 3)
        file.write(b"\xff")
    assert f"{path}: damaged at byte" in message(f"wds:{tars}", tmp_path)
    path.write_bytes(b"")
    assert f"{path}: is empty (0 bytes)" in message(f"wds:{tars}", tmp_path)


def test_labels_in_json_and_named_members_are_read(folder: Path, tmp_path: Path) -> None:
    tars = tmp_path / "tars"
    tars.mkdir()
    for part in PARTS:
        path = tars / f"{part}.tar"
        for index in range(3):
            content = json.dumps({"label": index, "fine": 2 - index}).encode()
            name = f"deep/{'long' * 40}/{index}"
            add(
                path,
                {f"{name}.jpg": png((9, 8)), f"{name}.seg.png": png(), f"{name}.json": content},
            )
    name = f"wds:{tars}"
    assert "data.take.image=jpg" in message(name, tmp_path)
    source = taking(name, tmp_path, image="jpg")
    assert source.split("train").labels.tolist() == [0, 1, 2]
    assert [image.shape for image in images(source)] == [(3, 8, 9)] * 3
    assert source.split("train").names[1] == f"deep/{'long' * 40}/1.jpg"
    other = taking(name, tmp_path, image="seg.png", label="fine")
    assert other.split("train").labels.tolist() == [2, 1, 0]
    assert [image.shape for image in images(other)] == [(3, 8, 8)] * 3


def test_keys_that_are_unique_in_their_shard_alone_get_its_name(
    folder: Path, tmp_path: Path
) -> None:
    tars = write_tars(folder, tmp_path / "tars", per_shard=100)
    shutil.copy(tars / "train-000.tar", tars / "train-001.tar")
    names = opened(f"wds:{tars}", tmp_path).split("train").names
    assert (names[0], names[12]) == ("train-000-cat-0.jpg", "train-001-cat-0.jpg")


# -- nothing is executed or fetched --------------------------------------------------------------


class Bomb:
    def __reduce__(self) -> Any:
        return (Path("exploded").touch, ())


def test_pickles_in_shards_are_not_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pickle

    monkeypatch.chdir(tmp_path)
    tars = write_tars(folder, tmp_path / "tars", per_shard=100)
    bomb = pickle.dumps(Bomb())
    names = ("pyd", "pickle", "pth", "npy")
    add(tars / "train-000.tar", {f"a.{name}": bomb for name in names} | {"a.cls": bomb})
    assert "is not the number of a class" in message(f"wds:{tars}", tmp_path)
    assert not (tmp_path / "exploded").exists()


def test_nothing_but_download_reaches_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []

    def refuse(*place: Any, **_: Any) -> None:
        used.append(place)
        raise OSError("there is no network")

    for module in (datasets.config, huggingface_hub.constants):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    said = message("hf:someone/pictures", tmp_path)
    assert said.startswith("hf:someone/pictures: cannot be loaded (")
    assert said.endswith("check the name, or add --download")
    assert used == []


def test_a_data_set_of_the_hub_is_read_from_the_cache(
    folder: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = write_parquet(folder, tmp_path / "pictures")
    datasets.load_dataset(str(place))
    (cached,) = [path for path in cache.iterdir() if path.is_dir()]
    cached.rename(cache / "someone___pictures")
    shutil.rmtree(place)
    monkeypatch.chdir(tmp_path)
    source = opened("hf:someone/pictures", tmp_path)
    assert isinstance(source, EncodedImages)
    assert source.classes == CLASSES
    for expected, image in zip(
        images(opened(f"folder:{folder}", tmp_path)), images(source), strict=True
    ):
        np.testing.assert_array_equal(image, expected)


def test_no_code_of_a_data_set_is_run(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "pictures"
    place.mkdir()
    (place / "pictures.py").write_text(f"open({str(tmp_path / 'exploded')!r}, 'w')")
    message(f"hf:{place}", tmp_path)
    assert not (tmp_path / "exploded").exists()


def test_the_photo_is_no_flat_picture() -> None:
    assert np.asarray(PHOTO).std() > 10
