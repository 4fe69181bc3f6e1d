"""Label weights: balanced by frequency, bounded, or all 1."""

from __future__ import annotations

import re

import numpy as np
import pytest

from cxrfeat.labels.findings import FINDINGS
from head_training.training.loss import MAX_WEIGHT, LossWeighting, label_weights


def labels(*positives: int, count: int = 1000) -> np.ndarray:
    """Return labels with these numbers of positives in the first columns, and 500 in the others."""
    hot = np.zeros((count, len(FINDINGS)), dtype=np.float32)
    for column in range(len(FINDINGS)):
        hot[: positives[column] if column < len(positives) else 500, column] = 1
    return hot


@pytest.mark.parametrize(
    ("positives", "negative", "positive"),
    [
        (500, 2, 2),
        (200, 1000 / 800, 5),
        (10, 1000 / 990, 100),
        (9, 1000 / 991, MAX_WEIGHT),
        (0, 1, MAX_WEIGHT),
        (1000, MAX_WEIGHT, 1),
    ],
)
def test_weights_follow_the_frequency(positives: int, negative: float, positive: float) -> None:
    """(P + N) / P and (P + N) / N, at most 100, finite where a class is absent."""
    weights = label_weights(labels(positives), LossWeighting.FREQUENCY)
    assert weights.dtype == np.float32
    assert weights.shape == (2, 14)
    np.testing.assert_allclose(weights[:, 0], [negative, positive], rtol=1e-6)
    np.testing.assert_allclose(weights[:, 1], [2, 2])


def test_both_classes_get_equal_total_weight() -> None:
    """The weights of the positives of a finding add up to those of its negatives."""
    hot = labels(300, 20)
    negative, positive = label_weights(hot, LossWeighting.FREQUENCY)
    np.testing.assert_allclose(positive * hot.sum(0), negative * (1 - hot).sum(0), rtol=1e-6)


def test_none_sets_all_weights_to_one() -> None:
    """Without weighting, the loss is the plain cross-entropy."""
    np.testing.assert_array_equal(label_weights(labels(3), LossWeighting.NONE), np.ones((2, 14)))


@pytest.mark.parametrize("shape", [(14,), (0, 14), (2, 3, 14)])
def test_labels_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    """For every weighting, the error names the shape."""
    for weighting in LossWeighting:
        with pytest.raises(ValueError, match=rf"labels have shape {re.escape(str(shape))}; expected \(N, F\)"):
            label_weights(np.zeros(shape, dtype=np.float32), weighting)
