"""How much clusters tell of the labels."""

import numpy as np
import pytest

from bigbatch_ue.clustering.agreement import measure_agreement

LABELS = np.repeat(np.arange(4), 24)


def test_clusters_that_are_the_classes_tell_all_of_the_label() -> None:
    agreement = measure_agreement((LABELS + 1) % 4, LABELS)
    assert agreement is not None
    assert (agreement.nmi, agreement.purity, agreement.homogeneity) == (1, 1, 1)
    assert np.array(agreement.table).sum() == 96
    assert "tell 100.0 % of the label" in str(agreement)
    assert "good" in str(agreement)


def test_clusters_inside_classes_tell_all_of_the_label_with_a_smaller_nmi() -> None:
    agreement = measure_agreement(2 * LABELS + np.arange(96) % 2, LABELS)
    assert agreement is not None
    assert agreement.homogeneity == 1
    assert agreement.nmi == pytest.approx(2 * 2 / (2 + 3), abs=1e-4)  # 2 I / (H + H') in bits
    assert agreement.purity == 1


def test_clusters_across_classes_tell_nothing() -> None:
    agreement = measure_agreement(np.arange(96) % 6 % 2, LABELS)
    assert agreement is not None
    assert agreement.nmi < 1e-6
    assert agreement.purity == 0.25
    assert "expect little protection; clusters.by=labels" in str(agreement)


def test_half_of_the_label_is_half_of_its_information() -> None:
    agreement = measure_agreement(LABELS // 2, LABELS)
    assert agreement is not None
    assert agreement.homogeneity == 0.5
    assert agreement.table == ((24, 24, 0, 0), (0, 0, 24, 24))
    assert "expect partial protection" in str(agreement)


def test_a_single_class_has_no_agreement() -> None:
    assert measure_agreement(np.arange(10) % 2, np.zeros(10, np.int64)) is None
