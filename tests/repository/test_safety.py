"""Safety: no pickle, no shell, no network, and no path of the home folder in published files."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bigbatch_ue.files.formats import read_json
from tests.helpers.runs import TINY

TOP = Path(__file__).resolve().parents[2]
SOURCES = [
    path for folder in ("bigbatch_ue", "analysis", ".ci") for path in TOP.glob(f"{folder}/**/*.py")
]
PICKLES = ("pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve")
FORBIDDEN = ("eval", "exec", "os.system", "os.popen", "yaml.unsafe_load", "yaml.full_load")
SAFE_IF = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "np.save": ("allow_pickle", False),
    "np.lib.format.read_array": ("allow_pickle", False),
    "np.lib.format.write_array": ("allow_pickle", False),
}


def unsafe(code: str) -> Iterator[str]:
    """Find statements that might execute what they read, or start a shell."""
    for node in ast.walk(ast.parse(code)):
        line = f"{getattr(node, 'lineno', 0)}: {ast.unparse(node)}"
        if isinstance(node, ast.Import):
            if any(alias.name.partition(".")[0] in PICKLES for alias in node.names):
                yield line
        elif isinstance(node, ast.ImportFrom):
            harmless = all(alias.name == "UnpicklingError" for alias in node.names)
            if (node.module or "").partition(".")[0] in PICKLES and not harmless:
                yield line
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            option, safe = SAFE_IF.get(name, ("shell", False))
            missing = None if name in SAFE_IF else "False"
            if name in FORBIDDEN or "_pickle" in name or given.get(option, missing) != str(safe):
                yield line


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(TOP).as_posix())
def test_nothing_is_unpickled_evaluated_or_given_to_a_shell(path: Path) -> None:
    assert list(unsafe(path.read_text())) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import UnpicklingError, loads",
        "import numpy, joblib",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "pd.read_pickle(path)",
        "subprocess.run(line, shell=True)",
        "subprocess.run(line, shell=whatever)",
        "os.system(line)",
        "eval(line)",
        "exec(line)",
    ],
)
def test_what_is_unsafe_is_found(code: str) -> None:
    assert list(unsafe(f"def function():\n    {code}\n"))


CHILD = """
import pickle, socket, sys
refused, unpickled = [], []
def hook(event, args):
    if event == "pickle.find_class":
        return unpickled.append(args)
    if event in ("socket.connect", "socket.sendto"):
        host = args[1][0] if isinstance(args[1], tuple) else "unix"
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = args[0]
    else:
        return
    if host not in (None, "", "unix", "localhost", "127.0.0.1", "::1"):
        refused.append((event, host))
        raise OSError(f"refused: {event} {host}")
sys.addaudithook(hook)
from analysis.cli import main as analyse
from bigbatch_ue.cli.commands import main
for command in sys.argv[1].split(";"):
    program, *arguments = command.split("|")
    sys.argv = [program, *arguments]
    try:
        (analyse if program == "analysis" else main)(arguments)
    except SystemExit as stop:
        assert (stop.code or 0) == (75 if "--time-limit" in arguments else 0)
assert not refused, refused
assert not unpickled, unpickled
for attempt in (
    lambda: socket.create_connection(("192.0.2.1", 80), 1),
    lambda: socket.getaddrinfo("example.org", 80),
):
    try:
        attempt()
    except OSError as error:
        assert "refused" in str(error), error
assert len(refused) == 2, "the hook hears nothing"
pickle.loads(pickle.dumps(len))
assert unpickled, "the hook hears nothing"
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a home folder with a data set and the outputs of all commands, guarded by `CHILD`."""
    home = tmp_path_factory.mktemp("home-of-somebody")
    random = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for part, count in (("train", 60), ("test", 20)):
        arrays[f"{part}_images"] = random.integers(256, size=(count, 8, 8), dtype=np.uint8)
        arrays[f"{part}_labels"] = np.arange(count) % 2
    np.savez(home / "mine.npz", **arrays)
    run, table = home / "runs" / "mine", home / "analysis"
    network = "{channels: [8, 8, 16, 16], layers: [1, 1, 1, 1]}"
    settings = [
        *TINY,
        f"data.name=npz:{home / 'mine.npz'}",
        f"data.root={home / 'data'}",
        f"output={run}",
        "batch.extend=views",
        "surrogate.weights=fit",
        "surrogate.fit.epochs=1",
        f"target.args={network}",
        "target.fit.epochs=1",
        "evaluation.seeds=[0]",
        "evaluation.fractions=[0.5, 1.0]",
    ]
    commands: list[list[str | Path]] = [
        ["bigbatch-ue", "train", "--preset", "small", *settings, "--time-limit", "0"],
        ["bigbatch-ue", "train", "--preset", "small", *settings, "--resume"],
        ["bigbatch-ue", "protect", run],
        ["bigbatch-ue", "evaluate", run],
        ["bigbatch-ue", "report", run / "evaluation", "--out", home / "page"],
        ["analysis", "collect", home / "runs", "--out", table],
        ["analysis", "report", table, "--draws", "500"],
        ["analysis", "tensorboard", table, "--draws", "500"],
        ["bigbatch-ue", "evaluate", run, "evaluation.countermeasures=all", "evaluation.arms=[uc]"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, ";".join("|".join(map(str, c)) for c in commands)],
        env={**os.environ, "HOME": str(home), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return home


def test_invariant_6_nothing_is_loaded_through_pickle(home: Path) -> None:
    """The child process has checked it, from interrupted training to the analysis."""
    assert read_json(home / "runs" / "mine" / "result.json")["resumed_at"] == 1


def test_nothing_uses_a_network(home: Path) -> None:
    for made in (
        "runs/mine/protected/mine.npz",
        "runs/mine/evaluation/report.html",
        "page/report.html",
        "analysis/report.md",
    ):
        assert (home / made).stat().st_size > 0
    events = {p.relative_to(home).parts[0] for p in home.rglob("events.out.tfevents.*")}
    assert events == {"runs", "analysis"}


def test_only_files_that_a_run_needs_name_the_home(home: Path) -> None:
    """A run needs `config.yaml` to continue; everything else may be published."""
    naming = {
        path.name
        for path in home.rglob("*")
        if path.is_file() and re.search(re.escape(os.fsencode(home)), path.read_bytes())
    }
    assert naming == {"config.yaml"}
