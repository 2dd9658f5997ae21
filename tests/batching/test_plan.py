"""The batch plan: exact decompositions, steps, learning rates and warnings."""

import math

import pytest

from bigbatch_ue.batching.plan import lr_at, make_plan, scaled_lr
from bigbatch_ue.config.schema import Config
from bigbatch_ue.config.sections import OptimizerConfig
from tests.helpers.configs import config_of


def test_effective_batch_is_the_sum_over_ranks_and_micro_batches() -> None:
    plan = make_plan(config_of(97, micro=50), [200, 200, 200], world_size=3)
    images = [s.stop - s.start for rank in range(3) for s in plan.at(0).micro_slices(rank)]
    assert sum(images) == plan.at(0).images == 3 * 97
    assert plan.micro_batches == 2
    assert max(images) - min(images) <= 1


@pytest.mark.parametrize(
    ("scope", "effective", "epochs", "steps"),
    [
        ("cluster", 32, 50, 50 * math.ceil(368 / 32)),
        ("cluster", 1024, 50, 50),
        ("all", 1024, 50, 200),  # Pets under the public code: N 3,680, B 1,024, 50 epochs
        ("all", 4000, 10, 10),
    ],
)
def test_steps_of_an_epochs_budget(scope: str, effective: int, epochs: int, steps: int) -> None:
    config = Config.model_validate(
        {"batch": {"effective": effective, "scope": scope}, "budget": {"epochs": epochs}}
    )
    assert make_plan(config, [368] * 10, 1).steps == steps


def test_steps_budget_does_not_depend_on_the_batch() -> None:
    for effective in (1, 64, 100_000):
        config = Config.model_validate(
            {"batch": {"effective": effective}, "budget": {"kind": "steps", "steps": 17}}
        )
        assert make_plan(config, [368] * 10, 1).steps == 17


def test_cap_records_the_batch_in_use_and_warns() -> None:
    plan = make_plan(config_of(40), [50, 30, 21], 1)
    assert plan.per_generator == (40, 30, 21)
    assert (plan.requested, plan.effective) == (40, 40)
    assert plan.warning is not None
    assert plan.batch_in_words == "21 to 40"
    assert "a generator's 21 to 50 images: capped to 21 to 40" in plan.warning
    assert make_plan(config_of(4000), [50, 30, 21], 1).effective == 50
    assert make_plan(config_of(20), [50, 30, 21], 1).warning is None


def test_views_go_beyond_the_data_and_warn() -> None:
    plan = make_plan(config_of(4000, extend="views"), [50, 30, 21], 1)
    assert plan.per_generator == (4000, 4000, 4000)
    assert plan.warning is not None
    assert "views" in plan.warning


@pytest.mark.parametrize(
    ("rule", "lr"), [("none", 1e-4), ("sqrt", 2e-4), ("linear", 4e-4)], ids=str
)
def test_learning_rate_rules(rule: str, lr: float) -> None:
    optimizer = OptimizerConfig.model_validate(
        {"lr_rule": rule, "lr": 1e-4, "reference_batch": 256}
    )
    scaled, reason = scaled_lr(optimizer, 1024)
    assert scaled == pytest.approx(lr)
    assert "1024/256" in reason or rule == "none"


def test_cosine_starts_at_the_peak_and_ends_near_the_floor() -> None:
    config = config_of(10)
    plan = make_plan(config, [100] * 3, 1)
    rates = [lr_at(step, plan) for step in range(plan.steps + 1)]
    assert rates[0] == pytest.approx(1e-4)
    assert rates[-1] == pytest.approx(1e-6)
    assert rates == sorted(rates, reverse=True)


def test_a_scaled_rate_below_the_floor_stays_constant() -> None:
    config = Config.model_validate(
        {"batch": {"effective": 1}, "optimizer": {"lr_rule": "linear"}, "clusters": {"count": 3}}
    )
    plan = make_plan(config, [100] * 3, 1)
    assert plan.lr < config.optimizer.min_lr
    assert {lr_at(s, plan) for s in (0, 100, plan.steps)} == {plan.lr}
