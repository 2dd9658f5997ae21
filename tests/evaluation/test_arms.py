"""The arms of an evaluation, and their records on disk."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from bigbatch_ue.config.evaluation_sections import EvaluationConfig
from bigbatch_ue.config.load import load_config
from bigbatch_ue.config.names import ArmName, Countermeasure
from bigbatch_ue.evaluation.arms import Arm, ArmSpec, arm_specs, load_arms, save_arms
from bigbatch_ue.files.formats import write_json
from bigbatch_ue.runtime.errors import UserError
from tests.helpers.records import arm


def kinds(
    settings: EvaluationConfig, own: ArmName = ArmName.UC
) -> list[tuple[str, str, float, str]]:
    return [spec[:4] for spec in arm_specs(settings, own)]


def test_default_is_all_controls_beside_full_and_partial_protection() -> None:
    assert kinds(EvaluationConfig(seeds=(0,))) == [
        ("clean", "none", 0.0, "own"),
        ("random_noise", "none", 1.0, "own"),
        ("class_noise", "none", 1.0, "own"),
        ("pattern", "none", 1.0, "own"),
        ("shuffled", "none", 1.0, "own"),
        ("random_surrogate", "none", 1.0, "own"),
        ("unprotected", "none", 0.8, "own"),
        ("uc", "none", 0.8, "own"),
        ("uc", "none", 1.0, "own"),
    ]
    every = list(arm_specs(EvaluationConfig(), ArmName.UC))
    assert [spec.seed for spec in every] == [0] * 9 + [1] * 9 + [2] * 9


def test_countermeasures_and_labels_are_for_the_countered_arms_alone() -> None:
    settings = EvaluationConfig.model_validate(
        {"seeds": [3], "fractions": [1.0], "countermeasures": "all", "labels": ["own", "random:2"]}
    )
    found = kinds(settings)
    countered = [kind for kind in found if kind[1] != "none"]
    assert Counter(kind[0] for kind in countered) == {"clean": 13, "uc": 13}
    assert {kind[1] for kind in countered} == set(Countermeasure) - {"none"}
    assert [kind for kind in found if kind[3] != "own"] == [
        ("clean", "none", 0.0, "random:2"),
        ("uc", "none", 1.0, "random:2"),
    ]
    assert len(set(found)) == len(found)
    only = settings.model_copy(update={"countered": (ArmName.UC,)})
    assert {kind[0] for kind in kinds(only) if kind[1] != "none"} == {"uc"}


def test_external_perturbations_have_no_random_surrogate() -> None:
    found = kinds(EvaluationConfig(seeds=(0,), fractions=(0.4, 1.0)), ArmName.PROTECTED)
    assert [kind[0] for kind in found] == [
        "clean",
        "random_noise",
        "class_noise",
        "pattern",
        "shuffled",
        "unprotected",
        "protected",
        "protected",
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluation.seeds=[]", "evaluation.seeds"),
        ("evaluation.seeds=[0, 0]", "evaluation.seeds: contains a value twice"),
        ("evaluation.fractions=[0]", "evaluation.fractions"),
        ("evaluation.fractions=[1.2]", "evaluation.fractions"),
        ("evaluation.countermeasures=[jpg]", "evaluation.countermeasures"),
        ("evaluation.labels=['random:0']", "evaluation.labels"),
        ("evaluation.labels=[map]", "evaluation.labels"),
        ("evaluation.arms=[noise]", "evaluation.arms"),
        ("evaluation.countered=[unprotected]", "evaluation.countered: needs arms of whole"),
        ("evaluation.adversarial.eps=0", "evaluation.adversarial.eps"),
    ],
)
def test_impossible_settings_are_named(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(overrides=[override])


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    arms = [arm(), arm(seed=1, effective_batch=None)]
    save_arms(path, arms)
    assert load_arms(path) == arms
    assert arms[0].key != arms[1].key
    assert arms[0].seed_group == replace(arms[0], seed=7, final_accuracy=0.1).seed_group


@pytest.mark.parametrize("content", ['[{"arm": "clean"', '[{"arm": "clean"}]', "3", "[3]"])
def test_torn_or_other_records_are_a_user_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(UserError, match=r"results\.json"):
        load_arms(tmp_path / "results.json")


def test_a_spec_is_part_of_its_arm() -> None:
    assert set(ArmSpec._fields) <= set(Arm.__dataclass_fields__)


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
    write_json(path, [vars(arm()) | changed])
    with pytest.raises(UserError, match=r"results\.json"):
        load_arms(path)
