"""Options and the console that commands share."""

import shlex
from pathlib import Path

import pytest

from bigbatch_ue.cli.options import suggest


def test_a_suggested_command_can_be_pasted(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bigbatch-ue", "evaluate", Path("runs/my run"), "--data", "folder:It's mine"]
    suggest(*words)
    line = capsys.readouterr().out.removeprefix("next: ")
    assert shlex.split(line) == [str(word) for word in words]
