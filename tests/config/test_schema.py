"""The configuration schema: what decides a result, and names of run folders."""

from pathlib import Path

from bigbatch_ue.config.load import load_config
from bigbatch_ue.config.schema import Config


def test_saved_configuration_loads_to_itself(tmp_path: Path) -> None:
    config = load_config(
        "digits", overrides=["seed=3", "surrogate.args={channels: [4, 8, 16, 32]}"]
    )
    config.save(tmp_path / "config.yaml")
    assert load_config(file=tmp_path / "config.yaml") == config


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
