"""Atomic writes: whole or not at all, and nothing is left over."""

import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bigbatch_ue.files.atomic import atomic_file, atomic_folder
from bigbatch_ue.files.tensor_files import write_tensors

LONG_AGO = (1, 1)


def test_what_is_written_replaces_what_was_there(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with atomic_file(tmp_path / "file") as temporary:
            temporary.write_text(content)
        with atomic_folder(tmp_path / "folder") as temporary:
            (temporary / content).write_text(content)
    assert (tmp_path / "file").read_text() == "new"
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["new"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_files_have_the_mode_that_the_umask_gives(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_tensors(tmp_path / "one.safetensors", {"a": torch.zeros(1)}, {})
        with atomic_folder(tmp_path / "many") as folder:
            save_file({"a": torch.zeros(1)}, folder / "two.safetensors")
    finally:
        os.umask(before)
    for path in tmp_path.rglob("*.safetensors"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_an_error_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write_half() -> None:
        with atomic_file(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_are_removed_but_not_what_is_in_use(tmp_path: Path) -> None:
    path = tmp_path / "file"
    dead, fresh = tmp_path / ".file.dead", tmp_path / ".file.fresh"
    dead.mkdir()
    (dead / "file").write_text("half")
    fresh.mkdir()
    with atomic_file(path) as mine:
        mine.write_text("mine")
        os.utime(mine.parent, LONG_AGO)
        os.utime(dead, LONG_AGO)
        with atomic_file(path) as theirs:
            theirs.write_text("theirs")
        assert not dead.exists()
        assert fresh.exists(), "perhaps another process has just made it"
        assert mine.exists(), "it is locked"
    assert path.read_text() == "mine"
