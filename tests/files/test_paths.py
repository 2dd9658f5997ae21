"""Paths as users write them."""

from pathlib import Path

import pytest

from bigbatch_ue.files.paths import expand_path, hide_home
from bigbatch_ue.runtime.errors import UserError


def test_a_home_folder_is_expanded_and_hidden_again() -> None:
    path = expand_path("~/a.npz")
    assert path == Path.home() / "a.npz"
    assert hide_home(f"npz:{path}") == "npz:~/a.npz"


def test_an_unknown_home_folder_is_named() -> None:
    with pytest.raises(UserError, match=r"^~nobody-x/a\.npz: no such home folder$"):
        expand_path("~nobody-x/a.npz")
