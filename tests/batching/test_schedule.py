"""Schedules of the effective batch: closed forms against a count of every step."""

import itertools
import math

import numpy as np
import pytest

from bigbatch_ue.batching.plan import BatchPlan, lr_at, make_plan
from bigbatch_ue.batching.sampler import Sampler
from bigbatch_ue.batching.schedule import BatchSchedule
from bigbatch_ue.config.schema import Config
from bigbatch_ue.config.sections import AugmentConfig
from tests.helpers.configs import config_of

ASSIGNMENT = np.repeat([0, 1, 2], [50, 30, 21])
SIZES = [50, 30, 21]
STEPWISE = BatchSchedule.of_points([(0, 7), (3, 20), (9, 4)])
RAMPS = [(5, 64, 40), (64, 5, 40), (3, 500, 7), (500, 3, 7), (9, 9, 5), (1, 2, 1)]


def sampler(schedule: BatchSchedule, *, extend: str = "views", scope: str = "cluster") -> Sampler:
    batch = config_of(1, extend=extend, scope=scope).batch
    augment = AugmentConfig(pad=2, flip=True)
    return Sampler.of_clusters(ASSIGNMENT, schedule, 3, batch, 3, augment)


@pytest.mark.parametrize(("first", "last", "steps"), RAMPS)
def test_a_ramp_is_a_rounded_line(first: int, last: int, steps: int) -> None:
    ramp = BatchSchedule.of_ramp(first, last, steps)
    sign = 1 if last > first else -1
    line = [
        first + sign * math.floor(abs(last - first) * step / steps + 0.5) for step in range(steps)
    ]
    assert [ramp.at(step) for step in range(steps + 3)] == line + [last] * 3
    assert all(a != b for a, b in itertools.pairwise(ramp.batches))


@pytest.mark.parametrize(
    "schedule", [STEPWISE, BatchSchedule.constant(9), *(BatchSchedule.of_ramp(*r) for r in RAMPS)]
)
@pytest.mark.parametrize("limit", [None, 6, 19])
def test_totals_and_segments_are_those_of_a_count(
    schedule: BatchSchedule, limit: int | None
) -> None:
    batches = [schedule.at(step) for step in range(50)]
    for steps in range(50):
        taken = [batch if limit is None else min(batch, limit) for batch in batches[:steps]]
        assert schedule.total(steps, limit) == sum(taken)
        assert [b for part, b in schedule.segments(steps) for _ in part] == batches[:steps]


def test_a_point_that_changes_nothing_is_none() -> None:
    assert BatchSchedule.of_points([(0, 8), (5, 8), (9, 8)]) == BatchSchedule.constant(8)


@pytest.mark.parametrize("scope", ["cluster", "all"])
def test_a_constant_schedule_gives_the_batches_of_a_fixed_b(scope: str) -> None:
    fixed = sampler(BatchSchedule.constant(16), scope=scope)
    listed = sampler(BatchSchedule.of_points([(0, 16), (4, 16)]), scope=scope)
    for step in (0, 3, 4, 11):
        one, other = fixed.draw(step), listed.draw(step)
        for name in ("index", "generator", "weight"):
            assert np.array_equal(getattr(one, name), getattr(other, name))
        assert np.array_equal(one.views.top, other.views.top)


@pytest.mark.parametrize("extend", ["cap", "views"])
@pytest.mark.parametrize("scope", ["cluster", "all"])
def test_a_segment_takes_exactly_the_images_that_follow_those_of_the_one_before(
    extend: str, scope: str
) -> None:
    draws = sampler(BatchSchedule.of_points([(0, 7), (3, 40), (9, 4)]), extend=extend, scope=scope)
    size, generator = (30, 1) if scope == "cluster" else (101, 0)
    batches = [draws.draw(step) for step in range(12)]
    images = np.concatenate([batch.index[batch.generator == generator] for batch in batches])
    largest = 40 if extend == "views" or scope == "all" else 30
    assert len(images) == 3 * 7 + 6 * largest + 3 * 4
    fixed = sampler(BatchSchedule.constant(1), scope=scope)
    one_by_one = [fixed.draw(step) for step in range(len(images))]
    assert images.tolist() == [b.index[b.generator == generator][0] for b in one_by_one]
    assert len(set(images[:size])) == size
    for batch in batches:
        assert np.allclose(np.bincount(batch.generator, batch.weight), 1)


def plan_of(
    schedule: object, batch: dict[str, object] | None = None, **sections: object
) -> BatchPlan:
    """The plan of three clusters under a schedule."""
    content = {"batch": {"schedule": schedule, **(batch or {})}, "clusters": {"count": 3}}
    return make_plan(Config.model_validate({**content, **sections}), SIZES, 1)


@pytest.mark.parametrize("epochs", [1, 2, 7])
@pytest.mark.parametrize("points", [[[0, 5], [10, 40], [12, 3]], [[0, 9]], [[0, 100], [1, 2]]])
@pytest.mark.parametrize("extend", ["cap", "views"])
def test_an_epoch_ends_with_the_step_in_which_the_mean_generator_has_seen_its_images(
    points: list[list[int]], epochs: int, extend: str
) -> None:
    plan = plan_of(points, {"extend": extend}, budget={"kind": "epochs", "epochs": epochs})
    steps = 0
    for _ in range(epochs):
        seen = 0
        while seen < sum(SIZES) / 3:
            seen += min(plan.schedule.at(steps), 50 if extend == "cap" else 10**9)
            steps += 1
    assert plan.steps == steps


def test_a_constant_schedule_is_planned_as_a_fixed_b() -> None:
    for effective in (1, 8, 40, 4000):
        fixed = make_plan(config_of(effective), SIZES, 2)
        listed = make_plan(config_of(effective, schedule=[[0, effective]]), SIZES, 2)
        assert (listed.steps, listed.images, listed.per_generator) == (
            fixed.steps,
            fixed.images,
            fixed.per_generator,
        )
        assert listed.warning == fixed.warning


def test_the_axis_is_the_mean_over_steps() -> None:
    plan = plan_of([[0, 10], [2, 40], [6, 25]], budget={"kind": "steps", "steps": 10})
    assert plan.effective == (2 * 10 + 4 * 40 + 4 * 25) / 10 == 28
    assert plan.per_generator == (28, round((20 + 4 * 30 + 100) / 10), round((20 + 8 * 21) / 10))
    assert plan.requested == 25
    assert plan.batch_in_words == "10 to 40 (mean 28)"
    assert plan.images == sum(plan.at(step).images for step in range(10))
    assert plan.images_before(4) == sum(plan.at(step).images for step in range(4))
    own = plan.only(slice(1, 3))
    assert own.images == plan.images - 280
    assert (own.steps, own.lr) == (plan.steps, plan.lr)


def test_the_learning_rate_goes_with_the_batch_of_the_step() -> None:
    optimizer = {"lr_rule": "linear", "lr": 1e-3, "reference_batch": 10, "schedule": "constant"}
    plan = plan_of([[0, 5], [2, 20]], budget={"kind": "steps", "steps": 4}, optimizer=optimizer)
    assert [lr_at(step, plan) for step in range(4)] == pytest.approx([5e-4, 5e-4, 2e-3, 2e-3])
    assert plan.lr == pytest.approx(2e-3)


def test_a_schedule_that_the_run_does_not_reach_the_end_of_is_said() -> None:
    budget = {"kind": "steps", "steps": 60}
    plan = plan_of([[0, 5], [100, 20]], budget=budget)
    assert plan.warning is not None
    assert "reaches B = 20 after 100 steps, but the run has 60 and ends at B = 5" in plan.warning
    ramp = plan_of({"ramp_from": 4, "ramp_steps": 120}, {"effective": 20}, budget=budget)
    assert "ends at B = 12" in str(ramp.warning)
    assert plan_of([[0, 5], [59, 20]], budget=budget).warning is None


def test_the_fullest_step_has_the_largest_micro_batch() -> None:
    budget = {"kind": "steps", "steps": 6}
    plan = plan_of([[0, 4], [2, 10], [4, 11]], {"micro": 30}, budget=budget)
    assert plan.fullest_step == 2  # 30 images in one piece; 33 are two of 16 and 17
    assert (plan.largest_micro, plan.micro_batches) == (30, 2)
