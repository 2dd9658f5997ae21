"""Notes: on standard error, as they are, and from one process."""

import pytest

from bigbatch_ue.runtime.console import note


def test_notes_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    text = f"[/x] :smile: {'long ' * 40}"
    note(text)
    note("warning: few images", warning=True)
    assert capsys.readouterr() == ("", f"{text}\nwarning: few images\n")


def test_control_characters_of_file_names_do_not_reach_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    note("left out:\n  \x1b[31m.txt, a\x07\udcff")
    assert capsys.readouterr().err == "left out:\n  \\x1b[31m.txt, a\\x07\\udcff\n"


def test_only_the_main_process_prints_notes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    note("from each rank")
    note("from whichever rank decodes", any_process=True)
    assert capsys.readouterr().err == "from whichever rank decodes\n"
