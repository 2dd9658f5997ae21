"""Bad input is told of in one line: a sample of all kinds, and a test of each hole once found."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bigbatch_ue.config.sections import DataConfig
from bigbatch_ue.data.datasets import open_source
from bigbatch_ue.data.decoded import prepare_dataset
from bigbatch_ue.data.npz import Npz
from bigbatch_ue.files.formats import parse_json, parse_yaml, read_json, read_yaml
from bigbatch_ue.runtime.errors import UserError, user_message
from tests.soak.damage import Array, Bomb, Claim, LinkMember, Maze, Member
from tests.soak.inputs import Trial, attempt


def test_a_sample_of_bad_inputs_is_handled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert attempt(Trial(tmp_path), 40, 0) == (40, 40), capsys.readouterr().out


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    path = tmp_path / "set.npz"
    arrays = {"images": np.zeros((6, 8, 8), np.uint8), "labels": np.arange(6) % 2}
    parts = {f"{part}_{key}": a for part in ("train", "test") for key, a in arrays.items()}
    np.savez_compressed(path, allow_pickle=False, **parts)
    return path


@pytest.mark.parametrize("shape", ["(1000000000000,8,8)", "(-1,8,8)", "(6,1000000,1000000)"])
@pytest.mark.parametrize("key", ["train_images", "train_labels"])
def test_an_array_that_claims_an_absurd_shape_is_refused(npz: Path, key: str, shape: str) -> None:
    Claim(key, shape)(npz)
    with pytest.raises(UserError, match=key):
        Npz(npz).split("train")


def test_pickled_arrays_and_links_are_no_arrays(npz: Path) -> None:
    before = npz.read_bytes()
    pickled = [Array(key, "object") for key in ("train_labels", "train_images")]
    for damage in (*pickled, LinkMember("train_images")):
        npz.write_bytes(before)
        damage(npz)
        with pytest.raises(UserError, match="not readable"):
            Npz(npz).split("train")


def test_an_image_that_is_a_bomb_is_refused(npz: Path) -> None:
    Bomb("train_images", 300, "large")(npz)
    with pytest.raises(UserError, match="pixels"):
        Npz(npz).split("train")


def test_labels_beyond_int64_are_refused(npz: Path) -> None:
    Array("train_labels", "unsigned")(npz)
    with pytest.raises(UserError, match="too large"):
        Npz(npz).split("train")


def test_members_of_any_name_stay_in_the_archive(npz: Path, tmp_path: Path) -> None:
    Member("../x", b"content")(npz)
    prepare_dataset(DataConfig(name=f"npz:{npz}", size=8, root=tmp_path / "data"))
    assert not (tmp_path / "x").exists()
    assert not (tmp_path.parent / "x").exists()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (folder / part / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(folder / part / name / "0.png")
    return folder


def test_links_out_of_an_image_folder_are_refused(images: Path, tmp_path: Path) -> None:
    secret = tmp_path / "outside"
    secret.mkdir()
    Image.new("RGB", (8, 8)).save(secret / "x.png")
    for target in (secret, secret / "x.png"):
        link = images / "train" / "cat" / "link.png"
        link.symlink_to(target)
        with pytest.raises(UserError, match="outside"):
            open_source(DataConfig(name=f"folder:{images}"))
        link.unlink()


def test_a_linked_folder_of_images_is_fine(images: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(images)
    assert len(open_source(DataConfig(name=f"folder:{tmp_path / 'link'}")).files()) == 4


@pytest.mark.timeout(20)
def test_links_in_circles_are_refused(images: Path) -> None:
    Maze("train/cat")(images)
    with pytest.raises(UserError, match="already"):
        open_source(DataConfig(name=f"folder:{images}"))


@pytest.mark.timeout(20)
@pytest.mark.parametrize("read", [read_json, read_yaml])
def test_a_pipe_is_not_waited_for(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="not a file"):
        read(tmp_path / "pipe")


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "[" * 100_000, "9" * 5000])
def test_odd_json_is_not_valid(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


def test_a_few_aliases_are_fine_but_a_bomb_is_not() -> None:
    assert parse_yaml("a: &a [1, 2]\nb: *a") == {"a": [1, 2], "b": [1, 2]}
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    with pytest.raises(ValueError, match="more than"):
        parse_yaml("\n".join(["a0: &a0 [x, x]", *levels]))


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "- " * 20_000, "&a [*a]", "!!python/name:os.system", "!!int ''", "*a"]
)
def test_odd_yaml_is_not_valid(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_yaml(text)


def test_what_the_terminal_would_obey_is_escaped() -> None:
    assert user_message(UserError("a\nb \x1b[31m.png")) == "a b \\x1b[31m.png"


def test_a_record_of_another_kind_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps([1]))
    with pytest.raises(UserError, match=r"run\.json: expected a dict"):
        read_json(path, dict)
