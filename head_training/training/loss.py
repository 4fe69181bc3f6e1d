"""Label weights of the loss, computed from the frequencies of the findings in the training set.

Binary cross-entropy of label f, averaged over all known cells:  -w⁺ y log p - w⁻ (1 - y) log(1 - p)  with
w⁺ = (P + N) / P and w⁻ = (P + N) / N, where P and N count the positives and negatives of f.

Source: the positive/negative balancing of Wang et al., ChestX-ray8, CVPR 2017, equation 1. There P and N are counted
over a batch and all findings; here over the training set and per finding, so that a batch without positives is
harmless and a rare finding is balanced by its own frequency.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

MAX_WEIGHT = 100.0
"""Upper bound, reached below 1 %: one Hernia in 500 images would get weight 500 and dominate the training."""


class LossWeighting(StrEnum):
    """Weighting of the labels in the loss."""

    FREQUENCY = "frequency"
    NONE = "none"


def label_weights(labels: NDArray[np.float32], weighting: LossWeighting) -> NDArray[np.float32]:
    """Return the (2, F) float32 weights of a negative and a positive of each label.

    Args:
        labels: (N, F) of 0 and 1, NaN where unknown, of the training set.
        weighting: ``none`` sets all weights to 1.

    Raises:
        ValueError: labels that are not a matrix, or without rows.

    Example:
        >>> labels = np.zeros((10, 3), dtype=np.float32)
        >>> labels[:2] = 1  # each label on 2 images of 10
        >>> label_weights(labels, LossWeighting.FREQUENCY)[:, 0]  # 8 * 1.25 = 2 * 5
        array([1.25, 5.  ], dtype=float32)
    """
    if labels.ndim != 2 or not len(labels):
        raise ValueError(f"labels have shape {labels.shape}; expected (N, F), at least one row")
    if weighting == LossWeighting.NONE:
        return np.ones((2, labels.shape[1]), dtype=np.float32)
    positives = np.nansum(labels, axis=0, dtype=np.float64)  # (F,)
    known = (~np.isnan(labels)).sum(axis=0)  # (F,)
    counts = np.stack([known - positives, positives])  # (2, F)
    # The weight of a class without rows is never used; the bound keeps it finite.
    weights: NDArray[np.float32] = np.minimum(known / np.maximum(counts, 1), MAX_WEIGHT).astype(np.float32)
    return weights
