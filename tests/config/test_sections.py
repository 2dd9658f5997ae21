"""Sections of the configuration: bounds of their settings."""

import pytest

from bigbatch_ue.config.load import load_config
from bigbatch_ue.runtime.errors import UserError


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ("data.name=npz:a\0b", "control character"),
        ("output=a\0b", "control character"),
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


@pytest.mark.parametrize(
    ("written", "eps"),
    [("low", 4 / 255), ("medium", 8 / 255), ("high", 16 / 255), ("8/255", 8 / 255), ("0.03", 0.03)],
)
def test_a_bound_is_a_number_a_fraction_or_a_strength(written: str, eps: float) -> None:
    assert load_config("digits", overrides=[f"generator.eps={written}"]).generator.eps == eps


@pytest.mark.parametrize("written", ["strong", "8/0", "16/8", "-1/255", "/"])
def test_other_words_are_no_bound(written: str) -> None:
    with pytest.raises(UserError, match=r"generator\.eps.*: must be"):
        load_config("digits", overrides=[f"generator.eps={written}"])
