"""Errors of a command: one line on standard error, and an exit code."""

import os
import sys
from io import BytesIO, TextIOWrapper

import pytest
import torch
import typer

from bigbatch_ue.cli.runner import run
from bigbatch_ue.runtime.errors import EXIT_LOST_RANK, UserError
from bigbatch_ue.runtime.signals import EXIT_INTERRUPTED, Interrupted


def failing(cause: BaseException) -> typer.Typer:
    app = typer.Typer()

    @app.command()
    def fail() -> None:
        raise cause

    return app


@pytest.mark.parametrize(
    ("cause", "code", "line"),
    [
        (UserError("seed=x:\nexpected a number"), 2, "seed=x: expected a number"),
        (FileNotFoundError(2, "No such file", "a.npz"), 2, "a.npz: No such file"),
        (MemoryError(), 2, "out of memory: use a smaller"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to"),
            2,
            "the GPU is out of memory: end",
        ),
        (Interrupted("stopped by SIGTERM"), EXIT_INTERRUPTED, "stopped by SIGTERM"),
        (RuntimeError("Connection closed by peer"), EXIT_LOST_RANK, "lost another rank; add"),
        (KeyboardInterrupt(), 130, "interrupted; all finished results are kept"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_an_error_is_one_line_and_an_exit_code(
    cause: BaseException,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(os, "_exit", sys.exit)
    with pytest.raises(SystemExit) as stop:
        run(failing(cause), [])
    assert stop.value.code == code
    said = capsys.readouterr().err
    assert said.startswith(f"error: {line}")
    assert said.count("\n") == 1


def test_names_that_a_stream_cannot_show_are_escaped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = TextIOWrapper(BytesIO(), "latin-1")
    monkeypatch.setattr(sys, "stderr", stream)
    with pytest.raises(SystemExit):
        run(failing(UserError("照片: no such folder")), [])
    stream.flush()
    assert stream.buffer.getvalue() == b"error: \\u7167\\u7247: no such folder\n"  # type: ignore[attr-defined]


def test_an_error_of_the_program_itself_is_not_hidden() -> None:
    with pytest.raises(RuntimeError, match="a defect"):
        run(failing(RuntimeError("a defect")), [])
