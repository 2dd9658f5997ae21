"""Errors as the user sees them."""

import errno

import pytest

from bigbatch_ue.runtime.errors import UserError, user_message


def test_control_characters_are_escaped() -> None:
    assert user_message(UserError("a\nb \x1b[31m.png")) == "a b \\x1b[31m.png"


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: ...")],
)
def test_too_little_memory_is_reported(error: Exception) -> None:
    assert "out of memory" in (user_message(error) or "")


def test_only_errors_the_user_can_fix_have_a_message() -> None:
    assert user_message(FileNotFoundError(2, "No such file", "x")) == "x: No such file"
    assert user_message(RuntimeError("a defect")) is None


def test_what_the_system_refuses_comes_with_a_remedy() -> None:
    denied = PermissionError(errno.EACCES, "Permission denied", "runs/x")
    expected = "runs/x: Permission denied; ask its owner for access, or choose another place"
    assert user_message(denied) == expected
    assert (user_message(OSError(errno.ENOSPC, "No space left", "x")) or "").endswith("place")
