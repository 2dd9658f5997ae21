"""The presets that come with the program."""

from pathlib import Path

import pytest

from bigbatch_ue.config.bundled import preset_as_yaml, purposes
from bigbatch_ue.config.load import load_config, revise_evaluation
from bigbatch_ue.config.names import PRESETS, TARGETS
from bigbatch_ue.runtime.errors import UserError


def test_every_preset_says_what_it_is_for() -> None:
    listed = [name for names in purposes().values() for name in names]
    assert sorted(listed) == sorted([*PRESETS, *TARGETS])
    assert all(purpose.endswith((".", "`.")) and "#" not in purpose for purpose in purposes())


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_shown_as_a_file_is_the_same_as_the_preset(name: str, tmp_path: Path) -> None:
    file = tmp_path / "preset.yaml"
    file.write_text(preset_as_yaml(name))
    assert load_config(file=file) == load_config(preset=name)


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_shown_as_a_file_is_the_same_as_the_target(name: str, tmp_path: Path) -> None:
    file = tmp_path / "target.yaml"
    file.write_text(preset_as_yaml(name))
    assert load_config(file=file).target == revise_evaluation(load_config(), name).target


def test_an_unknown_preset_is_named() -> None:
    with pytest.raises(UserError, match="unknown name 'digit'; allowed: small, digits"):
        preset_as_yaml("digit")
