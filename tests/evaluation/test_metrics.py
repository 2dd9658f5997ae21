"""Measures of predictions: those of MedMNIST, and by hand."""

import math
import warnings
from pathlib import Path

import medmnist
import numpy as np
import pytest
import torch
from medmnist.evaluator import getACC, getAUC
from numpy.typing import NDArray
from torch import Tensor

from bigbatch_ue.evaluation.metrics import Measures, measure, tail_statistics


def random_scores(count: int, classes: int, decimals: int | None = None, seed: int = 0) -> Tensor:
    """Probabilities; with few `decimals` of the logits, many of them are equal."""
    logits = np.random.default_rng(seed).normal(size=(count, classes))
    logits = logits if decimals is None else logits.round(decimals)
    return torch.from_numpy(logits.astype(np.float32)).softmax(1)


def spread_labels(count: int, classes: int) -> NDArray[np.int64]:
    return np.random.default_rng(9).permutation(np.arange(count) % classes)


def plain(values: Measures) -> list[float]:
    return [values.accuracy, values.balanced_accuracy, values.auc]


# -- agreement with MedMNIST ---------------------------------------------------------------------


@pytest.mark.parametrize("decimals", [None, 0])
@pytest.mark.parametrize("flag", ["breastmnist", "pneumoniamnist"])
def test_two_classes_agree_with_the_evaluator(
    shared_data: Path, flag: str, decimals: int | None
) -> None:
    evaluator = medmnist.Evaluator(flag, "test", 28, str(shared_data))
    labels = evaluator.labels[:, 0].astype(np.int64)
    scores = random_scores(len(labels), 2, decimals)
    auc, accuracy = evaluator.evaluate(scores.numpy())
    found = measure(scores, labels)
    assert found.auc == pytest.approx(auc, abs=1e-6)
    assert found.accuracy == pytest.approx(accuracy, abs=1e-6)
    assert decimals is None or (scores[:, 0] == scores[:, 1]).any()


def test_two_classes_agree_where_rounding_ties_the_first_column() -> None:
    second = torch.logspace(-12, -8, 40)
    scores = torch.stack([1 - second, second], 1)
    assert (scores[:, 0] == 1).all()
    labels = (np.arange(40) >= 20).astype(np.int64)
    expected = getAUC(labels[:, None], scores.numpy(), "binary-class")
    assert measure(scores, labels).auc == expected == 1


@pytest.mark.parametrize("decimals", [None, 0])
@pytest.mark.parametrize("classes", [3, 8])
def test_more_classes_agree_with_the_evaluator(classes: int, decimals: int | None) -> None:
    labels, scores = spread_labels(500, classes), random_scores(500, classes, decimals)
    found = measure(scores, labels)
    auc = getAUC(labels[:, None], scores.numpy(), "multi-class")
    accuracy = getACC(labels[:, None], scores.numpy(), "multi-class")
    assert found.auc == pytest.approx(auc, abs=1e-6)
    assert found.accuracy == pytest.approx(accuracy, abs=1e-6)


# -- by hand -------------------------------------------------------------------------------------


def test_measures_of_four_images() -> None:
    scores = torch.tensor([[0.7, 0.2, 0.1], [0.4, 0.5, 0.1], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1]])
    found = measure(scores, np.array([0, 0, 1, 1]))
    assert found.confusion == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert found.accuracy == 0.5
    assert found.balanced_accuracy == 0.5
    assert found.auc == pytest.approx((0.75 + 0.75) / 2)


def test_absent_classes_that_are_predicted_do_not_count() -> None:
    scores = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [0.2, 0.7, 0.1], [0.5, 0.4, 0.1]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = measure(scores, np.array([0, 0, 1, 0]))
    assert found.confusion == [[2, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert found.accuracy == 0.75
    assert found.balanced_accuracy == pytest.approx((2 / 3 + 1) / 2)
    assert found.auc == pytest.approx((2 / 3 + 1) / 2)


@pytest.mark.parametrize("classes", [2, 5])
def test_equal_scores_are_chance(classes: int) -> None:
    scores, labels = torch.full((40, classes), 1 / classes), spread_labels(40, classes)
    assert plain(measure(scores, labels)) == pytest.approx([1 / classes, 1 / classes, 0.5])


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("label", [0, 1])
def test_one_image_and_one_class_have_no_curve(classes: int, label: int) -> None:
    scores = torch.eye(classes)[[1]]
    for count in (1, 3):
        found = measure(scores.expand(count, -1), np.full(count, label))
        assert plain(found) == [label, label, 0.5]
        assert found.confusion[label][1] == count


def test_scores_that_are_no_numbers_are_chance() -> None:
    scores, labels = torch.full((40, 4), math.nan), np.sort(spread_labels(40, 4))
    assert plain(measure(scores, labels)) == [0.25, 0.25, 0.5]


def test_labels_beyond_the_classes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"not all in 0 \.\.\. 1"):
        measure(random_scores(3, 2), np.array([0, 1, 2]))


# -- over epochs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epochs", "last"),
    [([0.4], 1), ([1, 0.5], 1), ([0, 0, 1, 0.5, 0.7], 2), ([0.1] * 6 + [0.5, 0.9], 2)],
)
def test_tail_is_the_last_quarter_rounded_up(epochs: list[float], last: int) -> None:
    expected = np.mean(epochs[-last:]), np.std(epochs[-last:])
    assert tail_statistics(epochs) == pytest.approx(expected)


def test_no_epochs_have_no_tail() -> None:
    with pytest.raises(ValueError, match="at least one"):
        tail_statistics([])
