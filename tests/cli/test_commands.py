"""The commands: their output, and bad input as one line and exit code 2."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.main import get_group

from bigbatch_ue.cli.commands import app, main
from tests.helpers.command_line import Cli, cli_of
from tests.helpers.runs import TINY, make_run


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command: exit code, standard output, standard error."""
    return cli_of(main, capsys)


def npz(path: Path, **arrays: np.ndarray) -> Path:
    random = np.random.default_rng(0)
    content = {
        f"{part}_{what}": array
        for part in ("train", "test")
        for what, array in (
            ("images", random.integers(256, size=(20, 8, 8), dtype=np.uint8)),
            ("labels", random.integers(2, size=(20, 1), dtype=np.uint8)),
        )
    }
    np.savez(path, **{**content, **arrays})  # type: ignore[arg-type]
    return path


def images(folder: Path) -> Path:
    for part in ("train", "test"):
        for label in ("a", "b"):
            (folder / part / label).mkdir(parents=True)
            for number in range(3):
                picture = Image.new("RGB", (10, 9), (number, 2, 3))
                picture.save(folder / part / label / f"{number}.png")
    return folder


def missing_file(folder: Path) -> list[str]:
    return [f"data.name=npz:{folder / 'none.npz'}"]


def missing_medmnist(folder: Path) -> list[str]:
    return ["data.name=bloodmnist", "data.size=28"]


def wrong_md5(folder: Path) -> list[str]:
    (folder / "data/medmnist").mkdir(parents=True)
    npz(folder / "data/medmnist/breastmnist.npz")
    return ["data.name=breastmnist", "data.size=28"]


def truncated_npz(folder: Path) -> list[str]:
    file = npz(folder / "short.npz")
    file.write_bytes(file.read_bytes()[:-200])
    return [f"data.name=npz:{file}"]


def object_array(folder: Path) -> list[str]:
    file = npz(folder / "object.npz", train_labels=np.array([{"a": 1}] * 20, dtype=object))
    return [f"data.name=npz:{file}"]


def undecodable_image(folder: Path) -> list[str]:
    (images(folder / "set") / "train/b/1.png").write_bytes(b"no image at all")
    return [f"data.name=folder:{folder / 'set'}"]


def empty_class_folder(folder: Path) -> list[str]:
    (images(folder / "set") / "train/c").mkdir()
    shutil.copytree(folder / "set/test/a", folder / "set/test/c")
    return [f"data.name=folder:{folder / 'set'}"]


def more_clusters_than_images(folder: Path) -> list[str]:
    return ["clusters.count=500"]


def unknown_data_set(folder: Path) -> list[str]:
    return ["data.name=imagenet"]


def multi_label(folder: Path) -> list[str]:
    return ["data.name=chestmnist", "data.size=28"]


def weights_that_do_not_fit(folder: Path) -> list[str]:
    save_file({"conv1.weight": torch.zeros(1)}, folder / "weights.safetensors")
    return [f"surrogate.weights=file:{folder / 'weights.safetensors'}"]


def pickled_weights(folder: Path) -> list[str]:
    torch.save({"state_dict": Path("an object")}, folder / "weights.pt")
    return [f"surrogate.weights=file:{folder / 'weights.pt'}"]


def output_that_cannot_be_made(folder: Path) -> list[str]:
    (folder / "file").write_text("in the way")
    return [f"output={folder / 'file' / 'run'}"]


def read_only_output(folder: Path) -> list[str]:
    if os.geteuid() == 0:  # root writes into any folder of a disk
        return ["output=/proc/run"]
    (folder / "closed").mkdir(mode=0o555)
    return [f"output={folder / 'closed' / 'run'}"]


@pytest.mark.parametrize(
    ("bad", "part"),
    [
        (missing_file, "none.npz"),
        (missing_medmnist, "--download"),
        (wrong_md5, "MD5"),
        (truncated_npz, "short.npz"),
        (object_array, "train_labels"),
        (undecodable_image, "train/b/1.png"),
        (empty_class_folder, "train/c"),
        (more_clusters_than_images, "500"),
        (unknown_data_set, "digits"),
        (multi_label, "multi-label"),
        (weights_that_do_not_fit, "weights.safetensors"),
        (pickled_weights, "weights.pt"),
        (output_that_cannot_be_made, "file"),
        (read_only_output, "run"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    bad: Callable[[Path], list[str]], part: str, tmp_path: Path, cli: Cli
) -> None:
    places = [f"data.root={tmp_path / 'data'}", f"output={tmp_path / 'run'}"]
    code, _, error = cli("train", "--preset", "digits", *TINY, *places, *bad(tmp_path))
    assert code == 2
    last = error.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert part in last
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()
    assert not [p for p in tmp_path.rglob(".*") if p.suffix != ".lock"], "nothing half-written"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["train", "--preset", "digit"], "preset: unknown name 'digit'"),
        (["train", "--config", "none.yaml"], "none.yaml"),
        (["train", "batch.effective=0"], "batch.effective=0"),
        (["train", "batch.efective=3"], "batch.efective"),
        (["train", "--preset", "digits", "--config", "x.yaml"], "not both"),
        (["train", "--no-such-option"], "No such option"),
        (["train", "--preset", "small"], "--preset small: is for your own images; name them"),
        (["plan", "--preset", "small"], "--preset small: is for your own images; name them"),
        (["launch", "ddp", "--ranks", "2", "--", "train", "--preset", "small"], "own images"),
        (["nothing"], "No such command"),
        (["protect", "nowhere"], "no run here"),
        (["evaluate", "nowhere"], "no run here"),
        (["evaluate", "nowhere", "--seed", "-1"], "seed"),
        (["evaluate"], "name the folder of a finished run"),
        (["evaluate", "nowhere", "--preset", "digits"], "need --protected"),
        (["evaluate", "nowhere", "--shard", "0/2"], "expected I/N"),
        (["evaluate", "nowhere", "--shard", "3/2"], "expected I/N"),
        (["evaluate", "nowhere", "--shard", "1"], "expected I/N"),
        (["evaluate", "--protected", "folder:nowhere", "data.name=digits"], "no such folder"),
        (["evaluate", "--protected", "x", "--target", "resnet19"], "unknown name 'resnet19'"),
        (["report", "nowhere", "--out", "page"], "nowhere"),
    ],
)
def test_wrong_arguments_are_one_line(arguments: list[str], part: str, cli: Cli) -> None:
    code, _, error = cli(*arguments)
    assert code == 2
    assert part in error
    assert len(error.strip().splitlines()) == 1


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose images are gone."""
    folder = tmp_path_factory.mktemp("finished")
    file = npz(folder / "here.npz")
    network = ("surrogate.model=resnet18", "surrogate.weights=random")
    run = make_run(folder, f"data.name=npz:{file}", "data.size=8", *network)
    file.rename(folder / "moved.npz")
    return run


MOVED = "here.npz: no such file; check the path; if the images of the run have moved, add --data"
MISTAKES = (
    (["train", "data.name=folder:none"], "data.name=folder:none: no such folder; check the path"),
    (["plan", "data.name=folder:none"], "data.name=folder:none: no such folder; check the path"),
    (["train", "data.name=npz:none.npz"], "data.name=npz:none.npz: no such file; check the path"),
    (
        ["train", "data.name=folder:set"],
        "set/train: no such folder; put images into train/",
    ),
    (["train", "data.name=folder:x.npz"], "a file; name the folder of train/ and test/"),
    (["train", "data.name=set"], "set: a place needs its kind; write folder:set"),
    (["train", "data.name=x.npz"], "x.npz: a place needs its kind; write npz:x.npz"),
    (["train", "data.name=none"], "data.name='none': unknown data set; allowed: digits"),
    (["train", "--preset", "bloodmnist"], "bloodmnist.npz: no such file; add --download"),
    (["plan", "batch.efective=3"], "batch.efective: unknown key"),
    (["bench", "batch.efective=3"], "batch.efective: unknown key"),
    (["bench", "--micro", "some"], "--micro some: expected"),
    (["sweep", "--config", "sweep.yaml"], "data.name=folder:none: no such folder"),
    (["evaluate", "none"], "none: no run here"),
    (["evaluate", "RUN", "evaluation.x=1"], "evaluation.x: unknown key"),
    (["evaluate", "RUN", "--target", "resnet19"], "target: unknown name 'resnet19'"),
    (["evaluate", "RUN", "--shard", "0/2"], "expected I/N"),
    (["evaluate", "RUN"], MOVED),
    (["evaluate", "--protected", "folder:none", "data.name=digits"], "none: no such folder"),
    (["protect", "none"], "none: no run here"),
    (["protect", "RUN"], MOVED),
    (["protect", "RUN", "--data", "set"], "set: a place needs its kind; write folder:set"),
    (["protect", "RUN", "--data", "npz:none.npz"], "data.name=npz:none.npz: no such file"),
    (["export", "none", "--out", "o"], "none: no run here"),
    (["export", "RUN", "--out", "o"], MOVED),
    (["apply", "none", "x.npz", "--out", "o"], "none: no such file or folder; check the path"),
    (["apply", "RUN", "none.png", "--out", "o"], "none.png: no such file or folder"),
    (["apply", "RUN", "x.npz", "--out", "o"], MOVED),
    (["presets", "digit"], "preset: unknown name 'digit'"),
)


def test_common_mistakes_are_told_before_torch_is_imported(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "x.npz").touch()
    dataset = "{preset: small, settings: {data: {name: 'folder:none'}}}"
    (tmp_path / "sweep.yaml").write_text(f"datasets: [{dataset}]\nbatches: [8]\n")
    given = [[str(finished) if word == "RUN" else word for word in words] for words, _ in MISTAKES]
    script = (
        "import json, sys\nfrom bigbatch_ue.cli.commands import main\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    try: main(words)\n"
        "    except SystemExit as end: assert end.code == 2, words\n"
        "    else: raise AssertionError(words)\n"
        "    assert 'torch' not in sys.modules, words\n"
    )
    command = [sys.executable, "-c", script, json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    assert len(said) == len(MISTAKES)
    for line, (_, part) in zip(said, MISTAKES, strict=True):
        assert part in line


def test_a_run_goes_on_to_the_next_command(finished: Path, tmp_path: Path, cli: Cli) -> None:
    place = f"npz:{finished.parent / 'moved.npz'}"
    code, out, _ = cli("protect", finished, "--data", place, "--out", tmp_path / "protected")
    assert code == 0
    assert out.splitlines()[-1] == f"next: bigbatch-ue evaluate {finished} --data {place}"
    code, out, _ = cli("export", finished, "--data", place, "--out", tmp_path / "export")
    assert code == 0
    wrote, private, upload, following = out.splitlines()
    assert wrote.startswith(f"{tmp_path / 'export'}: 3 perturbations of 8 x 8 pixels, ")
    assert private.startswith("Keep it to yourself: with it, perturbations can be subtracted")
    assert private in (tmp_path / "export" / "README.md").read_text()
    assert upload.endswith(f" hub: hf upload USER/NAME {tmp_path / 'export'} --private")
    assert following == f"next: bigbatch-ue apply {tmp_path / 'export'} IMAGES --out PERTURBED"


def test_presets_are_listed_and_shown(cli: Cli, tmp_path: Path) -> None:
    code, out, _ = cli("presets")
    assert code == 0
    assert "Your own images up to 64 pixels" in out
    code, out, _ = cli("presets", "small")
    assert code == 0
    assert "epochs: 12" in out
    said = " ".join(cli("train", "--help")[1].replace("│", " ").split())
    assert "`bigbatch-ue presets NAME` shows them" in said


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    places = [f"data.root={tmp_path / 'data'}", f"output={tmp_path / 'run'}"]
    script = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "from bigbatch_ue.cli.commands import main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500));"
        "import sys; main(sys.argv[1:])"
    )
    arguments = ["train", "--preset", "digits", *TINY, *places]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr
    left = [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".lock"]
    assert left == []


def test_datasets_are_listed_with_their_places(cli: Cli, tmp_path: Path) -> None:
    code, out, _ = cli("datasets", "--root", tmp_path)
    assert code == 0
    for name in ("digits", "bloodmnist", "pets", "flowers102", "npz:PATH", "folder:PATH"):
        assert name in out


@pytest.mark.parametrize("name", list(get_group(app).commands))
def test_every_command_and_every_option_has_a_help_text(name: str, cli: Cli) -> None:
    command = get_group(app).commands[name]
    assert command.help
    assert [p.name for p in command.params if not getattr(p, "help", None)] == []
    code, out, _ = cli(name, "--help")
    assert code == 0
    assert command.help.split(".")[0].split()[0] in out


def test_names_are_not_markup_of_the_terminal(tmp_path: Path, cli: Cli) -> None:
    output = tmp_path / "[/x]"
    places = (f"output={output}", f"data.root={tmp_path / 'data'}")
    code, said, _ = cli("train", "--preset", "digits", *TINY, *places)
    assert code == 0
    assert f"perturbations: {output}" in said
