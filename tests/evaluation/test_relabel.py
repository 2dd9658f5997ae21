"""Other labels, the same for train and test: by a map, at random or by prototypes."""

import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bigbatch_ue.data.decoded import DataSet, ImageSet
from bigbatch_ue.evaluation.relabel import relabel
from bigbatch_ue.runs.identity import DataIdentity
from bigbatch_ue.runtime.errors import UserError

CLASSES = ["ant", "bee", "cat", "dog", "elk"]
PLACES = np.array([0.0, 0.1, 5.0, 5.1, 9.0])


def images(count: int) -> ImageSet:
    positions, names = np.arange(count), [str(index) for index in range(count)]
    return ImageSet(np.zeros((count, 1, 4, 4), np.uint8), positions % 5, names, positions)


@pytest.fixture
def data() -> DataSet:
    identity = DataIdentity("animals", "f")
    return DataSet("animals", identity, CLASSES, images(20), images(10), available=20)


def features() -> NDArray[np.float64]:
    noise = np.random.default_rng(0).normal(scale=0.01, size=20)
    return (PLACES[np.arange(20) % 5] + noise)[:, None]


def superclass_names(data: DataSet) -> list[str]:
    """The new name of each old class, which must be the same in train and test."""
    names = []
    for index in range(5):
        new = {*data.train.labels[index::5].tolist(), *data.test.labels[index::5].tolist()}
        assert len(new) == 1
        names.append(data.classes[new.pop()])
    return names


def test_own_labels_are_left_alone(data: DataSet) -> None:
    assert relabel("own", data, features, 0) is data


@pytest.mark.parametrize(
    "text",
    [
        "{ant: insect, bee: insect, cat: mammal, dog: mammal, elk: 7}",
        '{"ant": "insect", "bee": "insect", "cat": "mammal", "dog": "mammal", "elk": 7}',
    ],
)
def test_map_gives_the_names_of_the_file(tmp_path: Path, data: DataSet, text: str) -> None:
    file = tmp_path / "map.yaml"
    file.write_text(text)
    found = relabel(f"map:{file}", data, features, 0)
    assert found.classes == ["insect", "mammal", "7"]
    assert superclass_names(found) == ["insect", "insect", "mammal", "mammal", "7"]
    assert found.train.images is data.train.images
    assert found.train.labels.dtype == np.int64
    assert (found.name, found.identity) == (data.name, data.identity)


def test_classes_named_like_numbers_are_names(tmp_path: Path, data: DataSet) -> None:
    numbered = replace(data, classes=["001", "no", "1e3", "null", "true"])
    file = tmp_path / "map.yaml"
    file.write_text("{001: 01, no: 01, 1e3: yes, null: yes, true: yes}")
    assert relabel(f"map:{file}", numbered, features, 0).classes == ["01", "yes"]


def test_a_map_may_be_written_in_another_form_of_unicode(tmp_path: Path, data: DataSet) -> None:
    file = tmp_path / "map.yaml"
    named = replace(data, classes=["bär", *CLASSES[1:]])
    for form in ("NFC", "NFD"):
        text = unicodedata.normalize(form, "{bär: ä, bee: Ä, cat: ä, dog: Ä, elk: ä}")
        file.write_text(text, encoding="utf-8")
        assert relabel(f"map:{file}", named, features, 0).classes == ["ä", "Ä"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        ("{", "not valid YAML"),
        ("[ant]", "not a mapping of classes; write"),
        ("{ant: a, bee: b}", "no new name for cat, dog, elk"),
        ("{ant: a, bee: , cat: a, dog: b, elk: b}", "no new name for bee"),
        ("{ant: a, bee: b, cat: a, dog: a, elk: a, fox: b}", "unknown classes: fox"),
        ("{ant: a, bee: a, cat: a, dog: a, elk: a}", "a single class"),
    ],
)
def test_bad_maps_are_user_errors(
    tmp_path: Path, data: DataSet, text: str | None, message: str
) -> None:
    file = tmp_path / "map.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=f"{file}.*{message}"):
        relabel(f"map:{file}", data, features, 0)


def test_map_that_is_a_folder_is_a_user_error(tmp_path: Path, data: DataSet) -> None:
    with pytest.raises(UserError, match=f"{tmp_path}: not a file"):
        relabel(f"map:{tmp_path}", data, features, 0)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_random_superclasses_are_even_and_seeded(data: DataSet, count: int) -> None:
    found = relabel(f"random:{count}", data, features, 0)
    names = superclass_names(found)
    sizes = [names.count(name) for name in set(names)]
    assert len(sizes) == len(found.classes) == count
    assert max(sizes) - min(sizes) <= 1
    assert superclass_names(relabel(f"random:{count}", data, features, 0)) == names
    others = [
        superclass_names(relabel(f"random:{count}", data, features, seed)) for seed in range(1, 9)
    ]
    assert count == 5 or any(other != names for other in others)


def test_prototypes_bring_near_classes_together(data: DataSet) -> None:
    found = relabel("prototypes:3", data, features, 0)
    assert sorted(set(superclass_names(found))) == ["ant+bee", "cat+dog", "elk"]


def fail() -> NDArray[np.float64]:
    raise AssertionError("features are not needed")


@pytest.mark.parametrize("labels", ["random:1", "random:6", "prototypes:1", "prototypes:6"])
def test_impossible_numbers_of_superclasses_are_user_errors(data: DataSet, labels: str) -> None:
    with pytest.raises(UserError, match=r"choose 2 to 5 superclasses"):
        relabel(labels, data, fail, 0)


def test_features_are_needed_for_prototypes_alone(data: DataSet) -> None:
    relabel("random:2", data, fail, 0)
    with pytest.raises(AssertionError):
        relabel("prototypes:2", data, fail, 0)


def test_prototypes_need_an_image_of_each_class(data: DataSet) -> None:
    few = replace(data, train=data.train.first(3))
    with pytest.raises(UserError, match="class dog has no train image"):
        relabel("prototypes:2", few, fail, 0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("value", "message"), [(1.0, "too many classes look alike"), (np.nan, "not finite")]
)
def test_useless_features_are_user_errors(data: DataSet, value: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        relabel("prototypes:2", data, lambda: np.full((20, 3), value), 0)


@pytest.mark.parametrize(
    "classes",
    [
        ["a", "b", "a+b", "c", "d"],
        [f"{'a very long name ' * 5}{index}" for index in range(5)],
    ],
)
def test_superclasses_stay_apart_though_their_names_are_alike(
    data: DataSet, classes: list[str]
) -> None:
    places = np.array([0, 0, 5, 9, 9])
    alike = replace(data, classes=classes)
    found = relabel("prototypes:3", alike, lambda: places[data.train.labels][:, None] * 1.0, 0)
    assert len(set(found.classes)) == 3
    assert max(map(len, found.classes)) <= 70
    names = superclass_names(found)
    assert names[0] == names[1] != names[2] != names[3] == names[4]
