"""The configuration: presets, overrides, and errors that name the key and what is allowed."""

from pathlib import Path

import pytest

from bigbatch_ue.config.load import load_config
from bigbatch_ue.config.names import PRESETS
from bigbatch_ue.config.schema import Config
from bigbatch_ue.runtime.errors import UserError


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_valid_and_names_its_data(preset: str) -> None:
    config = load_config(preset)
    assert config.data.name == ("digits" if preset == "small" else preset)


@pytest.mark.parametrize(
    ("preset", "clusters", "epochs"),
    [("pets", 10, 50), ("flowers102", 5, 50), ("bloodmnist", 3, 30)],
)
def test_presets_hold_the_study_s_settings(preset: str, clusters: int, epochs: int) -> None:
    config = load_config(preset)
    assert config.surrogate.model == "resnet50"
    assert config.surrogate.weights == "pretrained"
    assert config.generator.eps == pytest.approx(16 / 255)
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.lr, optimizer.min_lr) == ("adam", 1e-4, 1e-6)
    assert optimizer.weight_decay == 5e-4
    assert optimizer.schedule == "cosine"
    assert (config.clusters.count, config.budget.epochs) == (clusters, epochs)
    assert config.budget.kind == "epochs"


def test_overrides_come_last_and_are_coerced(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("optimizer: {lr: 1e-3}\nbatch: {effective: 7}\n")
    config = load_config(file=file, overrides=["batch.effective=4096", "optimizer.min_lr=1e-5"])
    assert (config.batch.effective, config.optimizer.lr) == (4096, 1e-3)
    assert config.optimizer.min_lr == 1e-5


def test_saved_configuration_loads_to_itself(tmp_path: Path) -> None:
    config = load_config(
        "digits", overrides=["seed=3", "surrogate.args={channels: [4, 8, 16, 32]}"]
    )
    config.save(tmp_path / "config.yaml")
    assert load_config(file=tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("batch.effectve=3", ["batch.effectve", "unknown key", "effective"]),
        ("bacth.effective=3", ["bacth", "unknown key", "batch"]),
        ("batch.effective=0", ["batch.effective", "greater than or equal to 1"]),
        ("batch.scope=some", ["batch.scope", "'cluster' or 'all'"]),
        ("clusters.count=1", ["clusters.count", "greater than or equal to 2"]),
        ("generator.eps=0", ["generator.eps", "greater than 0"]),
        ("optimizer.lr=.nan", ["optimizer.lr", "finite"]),
        ("optimizer.min_lr=1", ["optimizer.min_lr", "exceeds"]),
        ("data.size=4", ["data.size", "8 pixels"]),
        ("augment.pad=16", ["augment.pad", "data.size"]),
        ("surrogate.weights=imagenet", ["surrogate.weights", "pretrained|fit|random|file"]),
        ("batch=3", ["batch", "section"]),
        ("batch.effective.x=3", ["batch.effective", "not a section"]),
        ("batch.effective", ["key=value"]),
        ("batch.effective=[", ["batch.effective", "readable"]),
    ],
)
def test_errors_name_the_key_and_what_is_allowed(override: str, parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        load_config("digits", overrides=[override])
    for part in parts:
        assert part in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "part"),
    [(b"- 1", "section: {key"), (b"a: [", "not valid YAML"), (b"\xff\xfe\x00", "not valid YAML")],
)
def test_unreadable_files_are_one_line(tmp_path: Path, content: bytes, part: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=part) as error:
        load_config(file=file)
    assert "\n" not in str(error.value)


def test_places_and_decomposition_are_no_part_of_the_answer() -> None:
    one = load_config("digits")
    other = load_config(
        "digits", overrides=["output=x", "batch.micro=3", "batch.accumulation=engine"]
    )
    assert one.answer() == other.answer()
    assert one.answer() != load_config("digits", overrides=["seed=1"]).answer()


def test_run_folder_is_named_after_data_batch_and_seed() -> None:
    assert Config().run_folder == Path("runs/digits-b256-s0")
    config = load_config(overrides=["data.name=npz:/some/where/blood.npz", "seed=2"])
    assert config.run_folder == Path("runs/blood-b256-s2")
