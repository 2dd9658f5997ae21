"""The share of a data set that a limit takes."""

import numpy as np
import pytest

from bigbatch_ue.data.share import stratified_share

SIZES = (700, 200, 90, 10)
LABELS = np.repeat(np.arange(4), SIZES)


@pytest.mark.parametrize("count", [4, 10, 100, 333, 999, 1000])
def test_each_class_has_its_share_and_at_least_one_image(count: int) -> None:
    chosen = stratified_share(LABELS, count)
    assert len(np.unique(chosen)) == count
    np.testing.assert_array_equal(chosen, np.sort(chosen))
    taken = np.bincount(LABELS[chosen], minlength=4)
    fair = count * np.array(SIZES) / len(LABELS)
    assert (taken >= 1).all()
    assert (np.abs(taken - fair) <= len(SIZES)).all()


def test_a_larger_share_contains_a_smaller_one() -> None:
    few, more = (set(stratified_share(LABELS, count).tolist()) for count in (50, 80))
    assert few < more


def test_the_images_of_a_class_are_chosen_at_random() -> None:
    """A set that is sorted, by patient or by date, is not cut off at the front."""
    chosen = stratified_share(np.zeros(1000, np.int64), 100)
    assert 400 < chosen.mean() < 600


def test_an_absent_class_and_too_few_images_for_all_classes() -> None:
    assert set(stratified_share(np.array([0, 0, 2, 2]), 2) // 2) == {0, 1}
    assert len(stratified_share(LABELS, 2)) == 2


def test_the_share_is_the_same_in_every_version() -> None:
    """A pinned choice: if a library draws other numbers, earlier runs lose their images."""
    assert stratified_share(np.arange(12) % 3, 5).tolist() == [1, 2, 5, 6, 9]
