"""Paths as users write them."""

from pathlib import Path

import pytest

from bigbatch_ue.files.paths import expand_path, hide_home, short_names
from bigbatch_ue.runtime.errors import UserError


def test_a_home_folder_is_expanded_and_hidden_again() -> None:
    path = expand_path("~/a.npz")
    assert path == Path.home() / "a.npz"
    assert hide_home(f"npz:{path}") == "npz:~/a.npz"


@pytest.mark.parametrize(
    ("home", "text", "hidden"),
    [
        ("/home/ann", "/home/ann", "~"),
        ("/home/ann", "folder:/home/ann/x --out=/home/ann/y", "folder:~/x --out=~/y"),
        ("/home/ann", '{"output": "/home/ann/\u00e4"}', '{"output": "~/\u00e4"}'),
        ("/home/ann", "/home/anna/x", "/home/anna/x"),
        ("/home/ann", "/backup/home/ann/x", "/backup/home/ann/x"),
        ("/", "folder:/data/x", "folder:/data/x"),
    ],
)
def test_a_home_folder_is_hidden_as_a_whole_leading_path_only(
    home: str, text: str, hidden: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", home)
    assert hide_home(text) == hidden


def test_a_user_without_a_home_folder_has_nothing_to_hide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 7)
    assert hide_home("/data/x") == "/data/x"


def test_an_unknown_home_folder_is_named() -> None:
    with pytest.raises(UserError, match=r"^~nobody-x/a\.npz: no such home folder$"):
        expand_path("~nobody-x/a.npz")


@pytest.mark.parametrize(
    ("places", "names"),
    [
        (["digits"], ["digits"]),
        (["npz:mine/cells.npz", "folder:/x/cells"], ["mine-cells", "x-cells"]),
        (["folder:/x/set.v1", "folder:/x/set.v2"], ["set.v1", "set.v2"]),
        (["folder:a/images", "folder:b/images", "pets"], ["a-images", "b-images", "pets"]),
        (["folder:images", "folder:/a/images"], ["images", "a-images"]),
        (["folder:/a/images", "folder:/a/images"], ["images", "images"]),
        (["folder:/"], ["data"]),
    ],
)
def test_places_are_named_by_as_many_parts_as_tell_them_apart(
    places: list[str], names: list[str]
) -> None:
    assert short_names(places) == names
