"""Bad inputs of every kind, given to the commands: each is reported in one line, or harmless.

`python -m tests.soak.inputs 2500` tries 2,500 of them. A case that is not handled is printed as
Python code that repeats it: `Trial(folder)(Case(...))`.
"""

import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from huggingface_hub import constants
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.soak import good
from tests.soak.damage import (
    ARRAYS,
    OUTSIDE,
    Added,
    Array,
    Bomb,
    Claim,
    Copied,
    Cut,
    Damage,
    Environment,
    Flipped,
    Inserted,
    Instead,
    Kept,
    Length,
    Linked,
    LinkMember,
    Maze,
    Member,
    Metadata,
    Node,
    Nothing,
    Picture,
    Renamed,
    Repeated,
    Replaced,
    Size,
    TableCell,
    Tensors,
)
from tests.soak.guard import HungError, Watched, watched

MAX_MEMORY = 600 << 20
Arguments = tuple[str, ...]


class Case(NamedTuple):
    """A damage to a file or folder of the good inputs, and the command that reads it."""

    file: str
    damage: Damage
    arguments: Arguments


# -- commands ------------------------------------------------------------------------------------

PLAN = ("plan", "--config", "config.yaml")
TRAIN = ("train", "--config", "config.yaml")
TRAIN_FOLDER = ("train", "--config", "folder.yaml")
TRAIN_WEIGHTS = ("train", "--config", "weights.yaml")
TRAIN_TENSORS = (*TRAIN_WEIGHTS, "surrogate.weights=file:weights.safetensors")
DONE = ("train", "--config", "done.yaml")
RESUME = ("train", "--resume", "--config", "stopped.yaml")
PROTECT = ("protect", "runs/done")
PROTECT_FOLDER = ("protect", "runs/drawn", "--out", "out")
AGAIN = ("protect", "runs/drawn")
EVALUATE = ("evaluate", "runs/done")
EVALUATE_FOLDER = ("evaluate", "runs/drawn")
THEIRS = ("evaluate", "--protected", "npz:theirs.npz", "--config", "config.yaml")
PICTURES = ("evaluate", "--protected", "folder:pictures", "--config", "folder.yaml")
REPORT = ("report", "runs/done/evaluation", "--out", "page")
REPORT_TWO = ("report", "runs/done/evaluation", "runs/drawn/evaluation", "--out", "page")
COLLECT = ("analysis", "collect", "runs", "--out", "table")
FIT = ("analysis", "fit", "runs/analysis", "--draws", "500")

# -- damages -------------------------------------------------------------------------------------

FRACTION = st.floats(0, 1)
NAMES = st.sampled_from(
    ["../x", "/tmp/x", "a/../../x", "..", "", ".", "x" * 300, "\0", "a\nb", "~nobody/x", "\x1b[31m"]
)
ABSENT = st.builds(Instead, st.sampled_from(["nothing", "folder", "pipe"]))
BYTES = st.one_of(
    st.builds(Flipped, FRACTION, st.integers(1, 255)),
    st.builds(Cut, FRACTION),
    st.builds(Inserted, FRACTION, st.binary(min_size=1, max_size=40)),
    st.builds(Replaced, st.sampled_from([b"", b"\0", b"[]", b"{}", b"null", b"\xff\xfe", b"PK"])),
    st.builds(Replaced, st.binary(max_size=60)),
    ABSENT,
    st.builds(Instead, st.just("link"), st.sampled_from([OUTSIDE, "nowhere", "/dev/zero", "."])),
)


def _any(texts: str) -> st.SearchStrategy[str]:
    """Sample from texts that are separated by bars."""
    return st.sampled_from([text.strip() for text in texts.split(" | ")])


VALUES = st.one_of(
    _any(
        'null | true | -1 | 0 | 1 | 2.5 | 1e30 | -1e30 | 1e999 | NaN | -Infinity | "" | [] | {} | '
        '[[]] | [null] | [-1] | [1, 1] | {"a": null} | {"../x": 1} | "nan" | "1" | "cat" | '
        '1000000000000 | "\\u0000" | "\\ud800" | "a\\nb" | "\\u001b[31m" | "../x" | "/tmp/x" | '
        '"~nobody/x"'
    ),
    st.sampled_from(
        ["9" * 5000, "[" * 3000 + "]" * 3000, '{"a":' * 3000 + "1" + "}" * 3000, f'"{"x" * 300}"']
    ),
    st.integers(-(2**70), -1).map(str),
    st.integers(2**33, 2**70).map(str),
)
YAML = _any(
    '!!int "" | !!python/name:os.system | !!binary "//8=" | !!timestamp x | !!bool x | '
    "!!float x | 2001-99-99 | 2001-01-01 | &a [*a] | *a | 0x | 0b2 | 1:99999 | .inf | .nan | "
    "!!set {1} | !!omap [1] | !!null x | {1: 2} | {[1]: 2} | {<<: 1} | "
    '"folder:../outside" | "npz:../outside/set.npz" | "npz:~nobody/x" | "npz:/dev/zero" | '
    '"map:../outside" | "file:../outside/secret" | "local-dir:../outside" | "hf-hub:x/y" | '
    '"../outside" | "folder:\\u0000" | "folder:images/train/../../../outside"'
)
WHAT = st.sampled_from(["value", "value", "value", "key", "gone"])
TREE = st.builds(Node, st.integers(0, 200), WHAT, VALUES)
YAML_TREE = st.builds(Node, st.integers(0, 200), WHAT, st.one_of(VALUES, YAML))
ARGS = st.sampled_from(
    [
        '{"checkpoint_path": "../outside/secret"}',
        '{"pretrained_cfg": {"file": "../outside/secret"}}',
        '{"pretrained": true}',
        '{"channels": [100000, 100000, 100000, 100000]}',
        '{"block": "os.system"}',
        '{"stem_width": 1000000}',
        '{"num_classes": 3}',
        '{"cache_dir": "../outside"}',
    ]
)
BOMBS = st.sampled_from(
    [
        Replaced(
            b"a0: &a0 [x, x]\n"
            + b"".join(
                b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9))
                for n in range(1, 30)
            )
        ),
        Replaced(
            b"a0: &a0 {k: v}\n"
            + b"".join(
                b"a%d: &a%d {<<: [%s]}\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9))
                for n in range(1, 12)
            )
        ),
        Repeated("[", 100_000),
        Repeated("{a: ", 20_000),
        Repeated("- ", 20_000),
        Repeated("[", 20_000, "]" * 20_000),
        Repeated("a: 1\n", 100_000),
        Repeated('{"a":', 50_000),
        Repeated("? ", 20_000),
    ]
)
KEYS = st.sampled_from(["train_images", "train_labels", "test_images", "test_labels"])
SHAPES = _any(
    "(1000000000000,8,8) | (1000000000000,) | (-1,8,8) | (16,-8,-8) | (16,) | (0,8,8) | () | "
    "(16,1000000,1000000) | (16,8,8,2) | (16,8,8,0) | (2147483648,4294967296,8) | (True,8,8) | "
    "(16,8) | ((16,),8) | 16 | None | (1e3,8) | (16,8,8 | (9999999999999999999999,8,8)"
)
DESCRS = _any(
    "'|u1' | '|O' | '<i8' | '|S1000000000' | '<U999999999' | [('a','|O')] | 'x' | None | '|V0' | "
    "'<f8' | 1 | __import__('os')"
)
NPZ = st.one_of(
    st.builds(Array, KEYS, st.sampled_from(sorted(ARRAYS))),
    st.builds(Claim, KEYS, SHAPES, DESCRS, st.sampled_from(["False", "True", "None", "1"])),
    st.builds(Claim, KEYS, SHAPES),
    st.builds(Member, NAMES.filter(lambda n: "\0" not in n), st.binary(max_size=8), st.booleans()),
    st.builds(LinkMember, KEYS),
    st.builds(Bomb, KEYS, st.sampled_from([300, 3000]), st.sampled_from(["many", "large"])),
    st.builds(Size, st.sampled_from([0, 1, 2**31, 2**32 - 1]), st.booleans()),
)
FOREIGN = st.one_of(
    TREE,
    st.builds(Length, st.sampled_from([0, 1, 2**20, 2**40, 2**63, 2**64 - 1])),
    st.builds(
        Tensors,
        st.integers(0, 99),
        _any("gone | double | whole | longer | scalar | flat | nan | huge | negative"),
    ),
)
SAFETENSORS = FOREIGN | st.builds(Metadata, TREE)
ODD = st.sampled_from(
    [b"\xff\xfe.png", b"a\nb.png", b"\x1b[31m.png", b".png", b" .png", b"x" * 250 + b".png"]
)
FOLDERS = st.sampled_from([b"\xff", b"a\nb", b"\x1b[31m", b"...", b" ", b"x" * 250, b"-", b"[red]"])
STRAYS = st.sampled_from(
    [b"._0.png", b"x.HEIC", b"x.NEF", b"x", b"Thumbs.db", b"@eaDir/0.png", b".hidden/0.png"]
)
PLACES = st.sampled_from([b"", b"val/", b"train/", b"train/cat/"])
IMAGES = st.one_of(
    st.builds(Copied),
    st.builds(Added, st.tuples(PLACES, STRAYS).map(b"".join), st.just("train/cat/0.png")),
    st.builds(Added, ODD.map(lambda n: b"train/cat/" + n), st.just("train/cat/0.png")),
    st.builds(Added, ODD.map(lambda n: b"train/" + n), st.just("train/cat/0.png")),
    st.builds(Renamed, st.just("cat"), FOLDERS),
    st.builds(
        Linked,
        st.sampled_from(["train/cat/0.png", "train/cat/9.png", "train/cat/loop", "train/new"]),
        _any(
            ".. | . | ../.. | ../dog | ../dog/0.png | ../../../../outside | nowhere | 0.png | / | "
            "../../../../outside/secret.png | ../../../outside | /dev/zero"
        ),
    ),
    st.builds(Maze, st.sampled_from(["train/cat", "train"])),
)
PICTURE = st.one_of(
    BYTES,
    st.builds(
        Picture,
        _any("bomb | float | deep | palette | animated | one | long | twelve | signed | profile"),
    ),
)

WORDS = st.builds(
    "{}={}".format,
    _any(
        "seed | output | data.name | data.root | data.size | data.limit | data.strict | "
        "data.title | generator.eps | batch.effective | optimizer.lr | clusters.by | "
        "surrogate.weights | x.y | seed.x"
    ),
    st.one_of(
        VALUES,
        YAML,
        _any(
            "010 | 20240501 | 1_000 | 8/255 | 8/0 | high | yes | ~ | folder:sets/batch #2 | "
            "npz:a: b | folder:images | 2024-05-01 | 1:30 | 0x10 | 1e3"
        ),
    ),
)
ODD_WORDS = st.builds(
    lambda command, word: Case("config.yaml", Nothing(), (*command, word)),
    st.sampled_from([PLAN, TRAIN]),
    WORDS,
)
CELLS = st.builds(
    TableCell,
    st.integers(0, 99),
    st.integers(0, 99),
    st.sampled_from(["", "98.5", "-1", "0", "no", "maybe", "NA", "nan", "inf", "1e999", "a,b"]),
)

NUMBERS = st.sampled_from([None, "", "0", "1", "2", "-1", "a", " 1", "1.0", "9" * 30, "\u0661"])
SWITCHES = st.sampled_from([None, "", "true", "1", "yes", "x", "no", "fp8", "bf16"])
FOLDERS_OF_USERS = st.sampled_from(
    [None, "", "/", ".", "nowhere", "~", "/dev/null", "/root/\udcff"]
)
VARIABLES = st.one_of(
    st.tuples(
        _any(
            "WORLD_SIZE | RANK | LOCAL_RANK | LOCAL_WORLD_SIZE | OMPI_COMM_WORLD_SIZE | PMI_SIZE | "
            "OMPI_COMM_WORLD_RANK | SLURM_NTASKS | SLURM_PROCID | SLURM_ARRAY_TASK_ID | "
            "MASTER_PORT | BIGBATCH_UE_GROUP | COLUMNS | OMP_NUM_THREADS | CUDA_VISIBLE_DEVICES"
        ),
        NUMBERS,
    ),
    st.tuples(
        _any(
            "ACCELERATE_USE_DEEPSPEED | ACCELERATE_USE_FSDP | ACCELERATE_MIXED_PRECISION | "
            "ACCELERATE_USE_CPU | ACCELERATE_DYNAMO_BACKEND | NO_COLOR | FORCE_COLOR | TERM | "
            "LANG | TZ | DS_ACCELERATOR | MASTER_ADDR | PYTHONWARNINGS"
        ),
        SWITCHES,
    ),
    st.tuples(
        _any("HOME | USER | LOGNAME | XDG_CACHE_HOME | MPLCONFIGDIR | TMPDIR"), FOLDERS_OF_USERS
    ),
)
ENVIRONMENTS = st.builds(
    lambda variables, command: Case("config.yaml", Environment(tuple(variables)), command),
    st.lists(VARIABLES, min_size=1, max_size=3, unique_by=lambda pair: pair[0]),
    st.sampled_from([TRAIN, RESUME, PROTECT, EVALUATE, COLLECT]),
)

# -- damages by file -------------------------------------------------------------------------------


def _of(
    file: str, *commands: Arguments, by: st.SearchStrategy[Damage] | None = None
) -> st.SearchStrategy[Case]:
    """Damage the bytes of `file`, or the file `by` other means, for one of `commands`."""
    damages = BYTES if by is None else st.one_of(by, by, BYTES)
    kept = st.one_of(damages, st.builds(Kept, damages.filter(lambda d: not isinstance(d, Instead))))
    return st.builds(Case, st.just(file), kept, st.sampled_from(commands))


def _in(folder: str, *commands: Arguments) -> st.SearchStrategy[Case]:
    return st.builds(Case, st.just(folder), IMAGES | ABSENT, st.sampled_from(commands))


def _run(name: str, *commands: Arguments, finished: bool = True) -> st.SearchStrategy[Case]:
    folder = f"runs/{name}"
    tree = ["run.json", "metrics.jsonl", *(["result.json"] if finished else [])]
    tensors = ["clusters", *(["perturbations"] if finished else [])]
    return st.one_of(
        _of(f"{folder}/config.yaml", *commands, COLLECT, by=st.one_of(YAML_TREE, BOMBS)),
        *(_of(f"{folder}/{file}", *commands, COLLECT, by=TREE) for file in tree),
        *(_of(f"{folder}/{f}.safetensors", *commands, COLLECT, by=SAFETENSORS) for f in tensors),
    )


def _evaluation(name: str, *commands: Arguments) -> st.SearchStrategy[Case]:
    folder = f"runs/{name}/evaluation"
    return st.one_of(
        _of(f"{folder}/results.json", *commands, by=TREE),
        _of(f"{folder}/about.json", *commands, by=TREE),
        _of(f"{folder}/differences.png", *commands, by=PICTURE),
    )


def cases(files: good.Found) -> st.SearchStrategy[Case]:
    """Draw damages of every kind to the good inputs; `files` have varying names."""
    config = st.one_of(
        YAML_TREE, st.builds(Node, st.just(files.args), st.just("value"), ARGS), BOMBS
    )
    return st.one_of(
        _of("config.yaml", PLAN, TRAIN, by=config),
        ODD_WORDS,
        ENVIRONMENTS,
        _of("runs/analysis/table.csv", FIT, by=CELLS),
        _of("set.npz", TRAIN, PLAN, PROTECT, EVALUATE, by=NPZ),
        _of("theirs.npz", THEIRS, by=NPZ),
        _in("images", TRAIN_FOLDER, PROTECT_FOLDER),
        _of("images/train/cat/0.png", TRAIN_FOLDER, PROTECT_FOLDER, by=PICTURE),
        _in("pictures", PICTURES),
        _of("pictures/train/cat/0.png", PICTURES, by=PICTURE),
        _of("weights.pt", TRAIN_WEIGHTS),
        _of("weights.safetensors", TRAIN_TENSORS, by=FOREIGN),
        _run("done", DONE, PROTECT, EVALUATE),
        _run("stopped", RESUME, finished=False),
        st.sampled_from(files.checkpoints).flatmap(lambda f: _of(f, RESUME, by=SAFETENSORS)),
        _evaluation("done", REPORT, REPORT_TWO, EVALUATE, COLLECT),
        _of("runs/drawn/protected/protected.json", AGAIN, EVALUATE_FOLDER, by=TREE),
        _of("runs/drawn/protected/train/cat/0.png", AGAIN, by=PICTURE),
        st.sampled_from(files.decoded).flatmap(
            lambda f: _of(f, TRAIN, PROTECT, by=TREE if f.endswith(".json") else None)
        ),
        st.sampled_from(files.targets).flatmap(lambda f: _of(f, EVALUATE, by=TREE)),
    )


# -- a trial ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """A place to try cases: copies of good inputs, which are made in `folder` if missing."""

    folder: Path

    def __post_init__(self) -> None:
        constants.HF_HUB_OFFLINE = True
        if not self.good.exists():
            good.make(self.good)
            outside = self.folder / "outside"
            shutil.copytree(self.good / "images", outside)
            shutil.copy(self.good / "set.npz", outside)
            shutil.copy(self.good / "weights.pt", outside / "secret")
            shutil.copy(self.good / "images/train/cat/0.png", outside / "secret.png")

    @property
    def good(self) -> Path:
        """The good inputs."""
        return self.folder / "good"

    def __call__(self, case: Case) -> str:
        """Try `case`; return what is wrong with the program's reaction, or an empty string."""
        place = self.folder / "case"
        good.copy(self.good, place)
        tempfile.tempdir = str(place)
        with contextlib.chdir(place), patch.dict(os.environ):
            case.damage(Path(case.file))
            before = _snapshot(place)
            with watched(place) as seen:
                try:
                    code, said = good.command(case.arguments)
                except (Exception, HungError) as error:
                    return "".join(traceback.format_exception(error, limit=-6))
            return _verdict(code, said, seen) or (_left(before, _snapshot(place)) if code else "")


def _verdict(code: int, said: str, seen: Watched) -> str:
    if seen.outside:
        return f"touched {', '.join(seen.outside)}"
    if seen.memory > MAX_MEMORY:
        return f"took {seen.memory >> 20} MiB"
    lines = said.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    if code == 0 and not errors and "Traceback" not in said:
        return ""
    if code == 2 and errors == lines[-1:] and "Traceback" not in said and "\x1b" not in said:
        return ""
    return f"ended with {code} and printed {said!r}"


def _left(before: dict[str, str], after: dict[str, str]) -> str:
    """Report the files that a failed command has changed and may not change."""
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    wrong = [path for path in sorted(changed) if not _may_change(path, after)]
    return f"failed and left {', '.join(wrong)}" if wrong else ""


def _may_change(path: str, after: dict[str, str]) -> bool:
    """Return whether a failed command may change a file: caches, locks, files of a started run."""
    if "/." in path and not path.endswith(".lock"):
        return False  # a temporary file
    run = "/".join(path.split("/")[:2])
    begun = {f"{run}/{name}" for name in ("config.yaml", "run.json", "clusters.safetensors")}
    begins = begun <= after.keys() and path.split("/")[2:3] in (["tensorboard"], ["metrics.jsonl"])
    return path.startswith("data/") or path.endswith(".lock") or begins


def _snapshot(folder: Path) -> dict[str, str]:
    """Map each file below `folder` to a digest of its bytes, or to the target of the link."""
    found = {}
    for at, _, names in os.walk(folder):
        for name in names:
            path = Path(at, name)
            if path.is_symlink():
                found[path.relative_to(folder).as_posix()] = os.readlink(path)  # noqa: PTH115
            elif path.is_file():
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                found[path.relative_to(folder).as_posix()] = content
    return found


def run(cases: int, seed: int) -> tuple[int, int]:
    """Try cases; return the numbers tried and handled, and print each of the others."""
    with tempfile.TemporaryDirectory() as folder:
        return attempt(Trial(Path(folder)), cases, seed)


def attempt(trial: Trial, count: int, first: int) -> tuple[int, int]:
    """Do the same as `run` in the folder of `trial`."""
    handled: list[bool] = []

    @seed(first)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases(good.found(trial.good)))
    def one(case: Case) -> None:
        if len(handled) == count:
            return
        problem = trial(case)
        handled.append(not problem)
        if problem:
            print(f"{case!r}\n    {problem.strip()}", flush=True)

    one()
    return len(handled), sum(handled)


if __name__ == "__main__":
    tried, well = run(int(sys.argv[1]), int((sys.argv[2:] or ["0"])[0]))
    print(f"bad inputs: {tried} handled: {well}")
    sys.exit(well < tried)
