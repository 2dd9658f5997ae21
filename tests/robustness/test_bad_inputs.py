"""A small sample of the bad inputs of `make soak`: each is handled, in one line."""

from pathlib import Path

import pytest

from tests.soak.inputs import Trial, attempt


def test_a_sample_of_bad_inputs_is_handled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert attempt(Trial(tmp_path), 40, 0) == (40, 40), capsys.readouterr().out
