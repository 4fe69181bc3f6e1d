"""ROC, precision-recall and reliability curves, and the expected calibration error (ECE)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

BINS = 15
"""Number of bins of equal width over [0, 1], as in Guo et al., On Calibration of Modern Neural Networks, ICML 2017."""

RESOLUTION = 400
"""Grid cells per axis of a thinned curve; a cell is about as wide as a printed line."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Reliability:
    """Predicted probability and observed frequency in the bins [0, 1/15), [1/15, 2/15), …, [14/15, 1].

    Attributes:
        mean: (15,) mean probability, NaN in an empty bin.
        observed: (15,) share of positives, NaN in an empty bin.
        images: (15,) int64 number of images in the bin.
    """

    mean: Floats
    observed: Floats
    images: NDArray[np.int64]

    @property
    def ece(self) -> float:
        """Expected calibration error: mean of |observed - mean| over the bins, weighted by their number of images."""
        gaps = np.abs(self.observed - self.mean)[self.images > 0]  # (non-empty bins,)
        return float(gaps @ self.images[self.images > 0] / self.images.sum())


def reliability(labels: ArrayLike, probabilities: ArrayLike) -> Reliability:
    """Return the reliability of N probabilities.

    Args:
        labels: (N,) of 0 and 1.
        probabilities: (N,) in [0, 1].

    Raises:
        ValueError: no image, or a probability outside [0, 1] or NaN.

    Example:
        >>> round(reliability([0, 0, 0, 1], [0.2, 0.2, 0.2, 0.2]).ece, 3)  # predicted 0.20, observed 0.25
        0.05
    """
    values = np.asarray(probabilities, dtype=np.float64)
    bins = to_bins(values)  # (N,)
    if not len(values):
        raise ValueError("no image to measure calibration on")
    images = np.bincount(bins, minlength=BINS)  # (15,)
    columns = (values, np.asarray(labels, np.float64))  # (N,) each
    sums = [np.bincount(bins, weights=column, minlength=BINS) for column in columns]  # (15,) each
    mean, observed = (np.where(images > 0, total / np.maximum(images, 1), np.nan) for total in sums)
    return Reliability(mean, observed, images)


def to_bins(probabilities: ArrayLike) -> NDArray[np.intp]:
    """Return the bin, 0 to 14, of each of (N,) probabilities; a bin includes its lower edge, the last one also 1.

    Raises:
        ValueError: a probability outside [0, 1], or NaN.
    """
    values = np.asarray(probabilities, dtype=np.float64)
    invalid = ~((values >= 0) & (values <= 1))  # (N,); True for NaN
    if invalid.any():
        raise ValueError(f"{invalid.sum()} probabilities are outside [0, 1] or NaN; the first is {values[invalid][0]}")
    edges = np.arange(BINS + 1) / BINS  # (16,)
    return np.minimum(np.searchsorted(edges, values, side="right") - 1, BINS - 1)


def roc_points(labels: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    """Return the (M,) false and true positive rates of a thinned ROC curve, from (0, 0) to (1, 1).

    Args:
        labels: (N,) of 0 and 1; both classes must be present.
        scores: (N,) finite.

    Source: scikit-learn's roc_curve.
    """
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    return _thin(fpr, tpr)


def precision_recall_points(labels: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    """Return the (M,) recall and precision of a thinned precision-recall curve, starting at recall 0.

    Args:
        labels: (N,) of 0 and 1; at least one positive must be present.
        scores: (N,) finite.

    Source: scikit-learn's precision_recall_curve.
    """
    precision, recall, _ = precision_recall_curve(labels, scores)
    return _thin(recall[::-1], precision[::-1])


def _thin(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Return the last point of a curve and its first point in each grid cell; a left-out point is within one cell."""
    cells = np.floor(np.stack([x, y]) * RESOLUTION)  # (2, points)
    kept = np.ones(len(x), dtype=bool)  # (points,)
    kept[1:-1] = (cells[:, 1:-1] != cells[:, :-2]).any(axis=0)
    return x[kept], y[kept]
