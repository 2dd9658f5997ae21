"""Progress: lines now and then in a pipe, a bar on a terminal, nothing for what is short."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from bigbatch_ue.runtime.progress import duration, rate

WORK = """
import time
from pathlib import Path
from bigbatch_ue.runtime import progress
from bigbatch_ue.runtime.progress import growth, progress as stage_of
progress.LINE_EVERY = 0.5
"""
TRAINING = """
with stage_of("training", "steps", 400, done=100, kept=True) as stage:
    for _ in range(18):
        time.sleep(0.1)
        stage.remark = "loss 0.1234"
        stage.advance(10)
"""
SHORT = """
with stage_of("features", "images", 3) as stage:
    list(stage.track(range(3)))
"""
UNCOUNTED = """
with stage_of("k-means"):
    time.sleep(0.8)
"""
LONG_TITLE = """
with stage_of("12/24 random surrogate, seed 0, a long title", "images", 1_234_567) as stage:
    for _ in range(5):
        time.sleep(0.2)
        stage.advance(1_234)
"""
DOWNLOAD = """
progress._POLL = 0.1
with growth("downloading set.npz", Path(".")):
    for _ in range(6):
        time.sleep(0.2)
        with open("set.npz", "ab") as file:
            file.write(bytes(1_000_000))
"""


def in_pipe(work: str, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", WORK + work],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        check=True,
    )
    assert done.stdout == b""
    return done.stderr.decode()


def on_terminal(work: str, folder: Path, columns: int = 80) -> str:
    """What a terminal of so many columns is sent."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    inherited = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    environment = {**inherited, "TERM": "xterm-256color"}
    command = [sys.executable, "-c", WORK + work]
    process = subprocess.Popen(
        command, cwd=folder, stdin=its, stdout=its, stderr=its, env=environment
    )
    os.close(its)
    sent = b""
    while True:
        try:
            sent += os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
    os.close(ours)
    assert process.wait() == 0
    return sent.decode()


def test_a_pipe_gets_plain_lines_with_rate_and_time_left(tmp_path: Path) -> None:
    lines = in_pipe(TRAINING, tmp_path).splitlines()
    assert len(lines) in (4, 5)
    for line in lines[:-1]:
        found = re.fullmatch(
            r"training, loss 0\.1234: (\d+) of 400 steps, ([\d.]+)/s, (\d) s left", line
        )
        assert found
        done, rate, left = int(found[1]), float(found[2]), int(found[3])
        assert 100 < done < 280
        assert 50 < rate < 101
        assert left - 2 <= (400 - done) / rate <= left + 1
    assert re.fullmatch(r"training, loss 0\.1234: 180 steps in 2 s, [\d.]+/s", lines[-1])


def test_what_cannot_be_counted_says_how_long_it_takes(tmp_path: Path) -> None:
    said = in_pipe(UNCOUNTED, tmp_path)
    assert re.fullmatch(r"k-means: [01] s so far\nk-means: 1 s\n", said)


def test_a_short_stage_says_nothing(tmp_path: Path) -> None:
    assert in_pipe(SHORT, tmp_path) == ""


def test_only_the_main_process_speaks(tmp_path: Path) -> None:
    ranks = {"WORLD_SIZE": "2", "LOCAL_RANK": "1", "RANK": "1"}
    assert in_pipe(TRAINING, tmp_path, **ranks) == ""
    said = in_pipe(TRAINING.replace("kept", "any_process"), tmp_path, **ranks)
    assert "of 400 steps" in said


def test_a_download_says_what_came(tmp_path: Path) -> None:
    lines = in_pipe(DOWNLOAD, tmp_path).splitlines()
    assert re.fullmatch(r"downloading set\.npz: \d MB, [\d.]+ MB/s", lines[0])
    assert re.fullmatch(r"downloading set\.npz: \d MB in 1 s, [\d.]+ MB/s", lines[-1])


@pytest.mark.parametrize("columns", [60, 80, 200])
@pytest.mark.parametrize("work", [TRAINING, LONG_TITLE, UNCOUNTED])
def test_a_terminal_gets_one_line_that_fits(tmp_path: Path, work: str, columns: int) -> None:
    sent = on_terminal(work, tmp_path, columns)
    frames = [
        frame
        for frame in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", sent))
        if frame.strip()
    ]
    assert {len(frame.rstrip()) for frame in frames} <= set(range(columns + 1))
    assert "━━━" in frames[-1]
    if work is not UNCOUNTED:
        assert re.search(r"of [\d,]+ (steps|images), [\d,.]+/s, .* left$", frames[-1].rstrip())
    if work is TRAINING:
        assert sent.rstrip().endswith("\x1b[?25h")  # the cursor is back
        # on 60 columns, what follows the bar decides how much of the loss there is room for
        remark = "loss 0.1234" if columns > 60 else "los[s 0-9.]*…"
        assert re.match(f"training, {remark} ━", frames[-1])


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (45, "45 s"), (90, "1 min 30 s"), (3599.7, "1 h 00 min"), (7500, "2 h 05 min")],
)
def test_durations_are_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("per_second", "words"),
    [(12_345.6, "12,346/s"), (3.14159, "3.14/s"), (0.5, "30/min"), (1 / 120, "30/h")],
)
def test_a_slow_rate_is_per_minute_or_hour(per_second: float, words: str) -> None:
    assert rate(per_second, "steps") == words
