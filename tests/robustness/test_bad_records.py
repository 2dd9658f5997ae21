"""Settings, names and records that no run can mean: one line each, and nothing is touched."""

import json
from pathlib import Path

import pytest
from PIL import Image

from bigbatch_ue.cli.commands import main
from bigbatch_ue.config.load import load_config
from bigbatch_ue.config.sections import DataConfig
from bigbatch_ue.data.decoded import prepare_dataset
from bigbatch_ue.data.image_files import decode, image_files
from bigbatch_ue.evaluation.arms import Arm, load_arms
from bigbatch_ue.evaluation.report.groups import seed_groups
from bigbatch_ue.files.formats import write_json
from bigbatch_ue.networks.backbone import NetworkSpec, create_network
from bigbatch_ue.protection.protect import hash_files
from bigbatch_ue.runtime.errors import UserError, user_message
from tests.helpers.command_line import cli_of
from tests.helpers.runs import TINY


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ('data.name="npz:a\\0b"', "control character"),
        ('output="a\\0b"', "control character"),
        ('surrogate.args={a: !!binary "//8="}', "JSON"),
        ("clusters.count=1000000000000", "10000"),
        ("generator.width=1000000", "1024"),
        ("data.size=1000000", "4096"),
        ("batch.effective=1000000000000", "16777216"),
        ("budget.steps=10000000000000", "2147483648"),
        (f'evaluation.labels=["random:{"9" * 5000}"]', "labels"),
    ],
)
def test_settings_beyond_any_machine_are_refused(setting: str, part: str) -> None:
    with pytest.raises(UserError, match=part):
        load_config("digits", overrides=[setting])


def test_nobodys_home_is_no_place(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such home folder"):
        prepare_dataset(DataConfig(name="npz:~nobody-x/a.npz", root=tmp_path))


def test_names_are_no_markup_of_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "[/x]"
    places = (f"output={output}", f"data.root={tmp_path / 'data'}")
    code, said, _ = cli_of(main, capsys)("train", "--preset", "digits", *TINY, *places)
    assert code == 0
    assert f"perturbations: {output}" in said


@pytest.mark.parametrize("name", ["hf-hub:user/model", "local-dir:elsewhere"])
def test_only_pretrained_networks_come_from_a_hub(name: str) -> None:
    with pytest.raises(UserError, match="needs weights=pretrained"):
        create_network(NetworkSpec(name, 3, 8), 0)


def test_postscript_is_no_image(tmp_path: Path) -> None:
    """PIL would start Ghostscript on it."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(UserError, match="not a readable image"):
        decode(tmp_path / "a.png", 3)
    (tmp_path / "a.png").rename(tmp_path / "a.eps")
    assert image_files(tmp_path, inside=tmp_path) == []


@pytest.mark.parametrize("name", ["a\nb.png", "\x1b[31m.png", "\udcff.png"])
def test_names_that_are_no_text_are_refused(name: str, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / name)
    with pytest.raises(UserError, match="no text") as refused:
        image_files(tmp_path, inside=tmp_path)
    assert (user_message(refused.value) or "\n").isprintable()


def test_too_little_memory_is_told_of() -> None:
    torch_says = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: ...")
    for error in (MemoryError(), torch_says):
        assert "out of memory" in (user_message(error) or "")


def arm(**changed: object) -> Arm:
    numbers = dict.fromkeys(Arm.__dataclass_fields__, 0.5)
    words = {"dataset": "d", "arm": "clean", "countermeasure": "none", "labels": "own"}
    counts = {"seed": 0, "steps": 1, "images": 1, "optimizer_steps": 0, "ranks": 1, "run_seed": 0}
    series = {"accuracies": [0.5], "losses": [1.0], "confusion": [[1, 0], [0, 1]]}
    more = {"target": "t", "device": "cpu", "inputs": "", "effective_batch": None}
    return Arm(**{**numbers, **words, **counts, **series, **more, **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changed",
    [
        {"arm": "x"},
        {"countermeasure": "x"},
        {"confusion": []},
        {"confusion": [[1, 0], [1]]},
        {"accuracies": []},
        {"seed": "x"},
    ],
)
def test_records_that_no_evaluation_writes_are_refused(
    changed: dict[str, object], tmp_path: Path
) -> None:
    path = tmp_path / "results.json"
    write_json(path, [vars(arm())])
    assert load_arms(path) == [arm()]
    write_json(path, [vars(arm()) | changed])
    with pytest.raises(UserError, match=r"results\.json"):
        load_arms(path)


def test_seeds_of_one_arm_have_the_same_classes() -> None:
    with pytest.raises(UserError, match="differ in their classes"):
        seed_groups([arm(), arm(seed=1, confusion=[[1]])])


def test_infinite_numbers_are_no_records(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps([vars(arm())]).replace("0.5", "1e999", 1))
    with pytest.raises(UserError, match="1e999"):
        load_arms(path)


def test_links_among_protected_images_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "secret").write_text("a")
    (tmp_path / "out" / "a.png").symlink_to(tmp_path / "secret")
    linked = hash_files(tmp_path / "out")
    (tmp_path / "secret").write_text("b")
    assert hash_files(tmp_path / "out") == linked
