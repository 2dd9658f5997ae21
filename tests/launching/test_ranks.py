"""The launcher: signals reach the ranks, and the exit code says how they ended."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bigbatch_ue.launching.ranks import main

ROOT = Path(__file__).parents[2]
RANK = """
import os, signal, sys, time
from pathlib import Path
rank, behaviour = int(os.environ.get("LOCAL_RANK", "0")), sys.argv[1]
def leave(number, frame):
    sys.exit(75)
if behaviour == "obey":
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGUSR1, leave)
Path(sys.argv[2], str(rank)).write_text(str(os.getpid()))
if behaviour == "fail" and rank == 1:
    sys.exit(7)
if behaviour == "limit":
    sys.exit(75) if rank == 1 else time.sleep(60)
time.sleep(120)
"""


def start(folder: Path, behaviour: str, ranks: int = 2) -> "subprocess.Popen[str]":
    script = folder / "rank.py"
    script.write_text(RANK)
    launcher = "ddp" if ranks > 1 else "single"
    (config,) = (ROOT / "launchers").rglob(f"{launcher}.yaml")
    arguments = ["--config_file", str(config), "--num_processes", str(ranks)]
    port = ["--main_process_port", "0"]
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "bigbatch_ue.launch",
            *arguments,
            *port,
            str(script),
            behaviour,
            folder,
        ],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    while process.poll() is None and any(
        not (folder / str(rank)).exists() for rank in range(ranks)
    ):
        time.sleep(0.02)
    return process


@pytest.mark.parametrize(
    ("behaviour", "ranks", "number", "code", "line"),
    [
        ("obey", 1, signal.SIGTERM, 75, ""),
        ("obey", 2, signal.SIGUSR1, 75, ""),
        ("ignorant", 2, signal.SIGTERM, 75, ""),
        ("limit", 2, None, 75, ""),
        ("fail", 2, None, 7, "error: rank 1 ended with exit code 7"),
    ],
    ids=[
        "one-rank-stops",
        "two-ranks-stop",
        "ranks-that-do-not-listen-yet",
        "one-rank-stops-while-the-other-still-ends",
        "a-rank-fails",
    ],
)
def test_the_exit_code_says_how_the_ranks_ended(
    behaviour: str,
    ranks: int,
    number: signal.Signals | None,
    code: int,
    line: str,
    tmp_path: Path,
) -> None:
    process = start(tmp_path, behaviour, ranks)
    if number is not None:
        process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert line in said
    assert "Traceback" not in said


def test_a_rank_that_dies_is_named_and_the_others_end(tmp_path: Path) -> None:
    process = start(tmp_path, "ignorant")
    time.sleep(0.2)
    os.kill(int((tmp_path / "1").read_text()), signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGKILL
    assert "error: rank 1 was ended by SIGKILL (out of memory?); the other ranks were ended" in said
    assert "Traceback" not in said
    other = int((tmp_path / "0").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(other, 0)


CONFIGS = sorted((ROOT / "launchers" / "accelerate").glob("*.yaml"))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_dry_run_prints_the_number_of_ranks_and_their_command(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--dry-run", "--config_file", str(config), "-m", "bigbatch_ue", "train", "a=[1, 2]"]
    assert main(given) == 0
    ranks, command = capsys.readouterr().out.splitlines()
    expected = "1 rank" if config.stem == "single" else "2 ranks"
    assert ranks == f"# {config}: {expected} on 1 machine, each of which runs"
    assert command == f"{sys.executable} -m bigbatch_ue train 'a=[1, 2]'"


DDP = f"--config_file {ROOT / 'launchers/accelerate/ddp.yaml'}"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (DDP, "the following arguments are required: training_script"),
        (f"{DDP} --dryrun train", "unrecognized arguments: --dryrun"),
        ("--config_file nowhere.yaml train", "nowhere.yaml: no such file"),
        (
            f"--config_file {ROOT / 'README.md'} train",
            "README.md: not a configuration of Accelerate",
        ),
        (f"--config_file {sys.executable} train", "not a configuration of Accelerate"),
        (f"{DDP} --num_processes 0 train", "num_processes=0: expected the number of ranks"),
        (f"{DDP} --num_machines 3 --machine_rank 1 train", "num_processes=2: expected"),
    ],
)
@pytest.mark.parametrize("first", [[], ["--dry-run"]], ids=["launch", "dry-run"])
def test_bad_arguments_are_one_line(
    first: list[str], arguments: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*first, *arguments.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert says in err
    assert err.count("\n") == 1
