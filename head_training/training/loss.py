"""Label weights of the loss, computed from the frequencies of the findings in the training set.

Binary cross-entropy of finding f, averaged over rows and findings:  -w⁺ y log p - w⁻ (1 - y) log(1 - p)  with
w⁺ = (P + N) / P and w⁻ = (P + N) / N, where P and N count the positives and negatives of f.

Source: the positive/negative balancing of Wang et al., ChestX-ray8, CVPR 2017, equation 1. There P and N are counted
over a batch and all findings; here over the training set and per finding, so that a batch without positives is
harmless and a rare finding is balanced by its own frequency.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from cxrfeat.labels.findings import FINDINGS

MAX_WEIGHT = 100.0
"""Upper bound, reached below 1 %: one Hernia in 500 images would get weight 500 and dominate the training."""


class LossWeighting(StrEnum):
    """Weighting of the labels in the loss."""

    FREQUENCY = "frequency"
    NONE = "none"


def label_weights(labels: NDArray[np.float32], weighting: LossWeighting) -> NDArray[np.float32]:
    """Return the (2, 14) float32 weights of a negative and a positive of each finding.

    Args:
        labels: (N, 14) of 0 and 1, of the training set.
        weighting: ``none`` sets all weights to 1.

    Raises:
        ValueError: labels of another shape, or without rows.

    Example:
        >>> labels = np.zeros((10, 14), dtype=np.float32)
        >>> labels[:2] = 1  # each finding on 2 images of 10
        >>> label_weights(labels, LossWeighting.FREQUENCY)[:, 0]  # 8 * 1.25 = 2 * 5
        array([1.25, 5.  ], dtype=float32)
    """
    if labels.ndim != 2 or labels.shape[1] != len(FINDINGS) or not len(labels):
        raise ValueError(f"labels have shape {labels.shape}; expected (N, {len(FINDINGS)}), at least one row")
    if weighting == LossWeighting.NONE:
        return np.ones((2, labels.shape[1]), dtype=np.float32)
    positives = labels.sum(axis=0, dtype=np.float64)
    counts = np.stack([len(labels) - positives, positives])  # (2, 14)
    # The weight of a class without rows is never used; the bound keeps it finite.
    weights: NDArray[np.float32] = np.minimum(len(labels) / np.maximum(counts, 1), MAX_WEIGHT).astype(np.float32)
    return weights
