"""The global batch: exact counts, every decomposition a slice of it, nothing drawn twice."""

import numpy as np
import pytest

from bigbatch_ue.batching.plan import make_plan
from bigbatch_ue.batching.sampler import Sampler
from bigbatch_ue.batching.step_plan import even_slice
from bigbatch_ue.config.sections import AugmentConfig
from tests.helpers.configs import config_of

ASSIGNMENT = np.repeat([0, 1, 2], [50, 30, 21])


def sampler(effective: int, **batch: object) -> Sampler:
    config = config_of(effective, **batch)
    plan = make_plan(config, [50, 30, 21], world_size=1)
    return Sampler.of_clusters(
        ASSIGNMENT,
        plan.schedule,
        3,
        config.batch,
        seed=3,
        augment=AugmentConfig(pad=2, flip=True),
    )


@pytest.mark.parametrize("effective", [1, 7, 21])
def test_every_generator_gets_its_own_images(effective: int) -> None:
    batch = sampler(effective).draw(4)
    assert len(batch) == 3 * effective
    assert np.array_equal(ASSIGNMENT[batch.index], batch.generator)
    assert np.bincount(batch.generator).tolist() == [effective] * 3
    assert np.allclose(np.bincount(batch.generator, batch.weight), 1)


@pytest.mark.parametrize("effective", [7, 30, 64])
def test_streams_are_endless_epochs_of_every_image_once(effective: int) -> None:
    draws = sampler(effective, extend="views")
    images = np.concatenate(
        [
            b.index[b.generator == 1]
            for b in (draws.draw(step) for step in range(-(-300 // effective)))
        ]
    )
    epochs = [images[start : start + 30] for start in range(0, 300, 30)]
    for epoch in epochs:
        assert np.array_equal(np.sort(epoch), np.arange(50, 80))
    assert len({tuple(e) for e in epochs}) == len(epochs), "each epoch is shuffled again"


def test_steps_can_be_drawn_in_any_order() -> None:
    one, other = sampler(16), sampler(16)
    later = one.draw(9)
    for step in range(9):
        other.draw(step)
    again = other.draw(9)
    assert np.array_equal(later.index, again.index)
    assert np.array_equal(later.views.top, again.views.top)
    assert np.array_equal(later.views.flip, again.views.flip)
    assert not np.array_equal(later.views.top, one.draw(8).views.top), "each step draws new views"


def test_scope_all_shows_every_perturbation_the_same_view_of_the_same_images() -> None:
    batch = sampler(11, scope="all").draw(2)
    assert len(batch) == 33
    table = [column.reshape(11, 3) for column in (batch.index, batch.views.top, batch.views.flip)]
    for column in table:
        assert (column == column[:, :1]).all()
    assert (batch.generator.reshape(11, 3) == np.arange(3)).all()
    assert np.allclose(np.bincount(batch.generator, batch.weight), 1)


def test_capped_clusters_are_seen_whole_each_step() -> None:
    batch = sampler(40).draw(5)
    assert np.bincount(batch.generator).tolist() == [40, 30, 21]
    assert np.array_equal(np.sort(batch.index[batch.generator == 2]), np.arange(80, 101))
    assert np.allclose(np.bincount(batch.generator, batch.weight), 1)


def test_views_beyond_the_cluster_repeat_images_in_other_views() -> None:
    batch = sampler(60, extend="views").draw(0)
    index = batch.index[batch.generator == 2]
    assert set(np.bincount(index - 80)) <= {2, 3}
    assert len(set(batch.views.top[batch.generator == 2])) > 1


@pytest.mark.parametrize("scope", ["cluster", "all"])
def test_parts_of_the_bank_make_up_its_batch(scope: str) -> None:
    whole = sampler(11, scope=scope).draw(4)
    for own in (slice(0, 1), slice(1, 3)):
        part = whole.only(own)
        mine = (whole.generator >= own.start) & (whole.generator < own.stop)
        assert np.array_equal(part.generator, whole.generator[mine] - own.start)
        assert np.array_equal(part.index, whole.index[mine])
        assert np.array_equal(part.views.top, whole.views.top[mine])


def test_every_micro_batch_is_a_mixture_of_clusters() -> None:
    batch = sampler(40, extend="views").draw(0)
    assert all(set(batch[slice(i, i + 3)].generator) == {0, 1, 2} for i in range(0, 120, 3))


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("micro", [1, 10, 1000])
def test_slices_of_all_ranks_are_the_batch(ranks: int, micro: int) -> None:
    plan = make_plan(config_of(7, micro=micro), [50, 30, 21], ranks)
    shares = [plan.at(0).micro_slices(rank) for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1, "collectives need equal counts"
    positions = [i for share in shares for part in share for i in range(part.start, part.stop)]
    assert positions == list(range(21))
    assert all(part.stop - part.start <= micro for share in shares for part in share)


def test_a_batch_smaller_than_the_ranks_leaves_some_empty() -> None:
    assert [even_slice(2, 3, part) for part in range(3)] == [slice(0, 0), slice(0, 1), slice(1, 2)]
