"""Curves to draw, and what is read off them: ROC, precision-recall, reliability and its expected calibration error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

BINS = 15
"""Of equal width over [0, 1], as in Guo et al., On Calibration of Modern Neural Networks, ICML 2017."""

RESOLUTION = 400
"""Points a side that a thinned curve is true to: a line's width in print."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Reliability:
    """How probabilities compare with frequencies, bin by bin: [0, 1/15), [1/15, 2/15), …, [14/15, 1].

    Attributes:
        mean: (15,) mean probability, NaN in an empty bin.
        observed: (15,) share of positives, NaN in an empty bin.
        images: (15,) how many are in the bin.
    """

    mean: Floats
    observed: Floats
    images: NDArray[np.int64]

    @property
    def ece(self) -> float:
        """Expected calibration error: mean over images of |observed - mean| of their bins."""
        gaps = np.abs(self.observed - self.mean)[self.images > 0]
        return float(gaps @ self.images[self.images > 0] / self.images.sum())


def reliability(labels: ArrayLike, probabilities: ArrayLike) -> Reliability:
    """Compare (N,) probabilities with (N,) labels of 0 and 1.

    Raises:
        ValueError: as :func:`to_bins`; no image.

    Example:
        >>> round(reliability([0, 0, 0, 1], [0.2, 0.2, 0.2, 0.2]).ece, 3)  # said of one in five, true of one in four
        0.05
    """
    values = np.asarray(probabilities, dtype=np.float64)
    bins = to_bins(values)
    if not len(values):
        raise ValueError("no image to calibrate on")
    images = np.bincount(bins, minlength=BINS)
    sums = [np.bincount(bins, weights=column, minlength=BINS) for column in (values, np.asarray(labels, np.float64))]
    mean, observed = (np.where(images > 0, total / np.maximum(images, 1), np.nan) for total in sums)
    return Reliability(mean, observed, images)


def to_bins(probabilities: ArrayLike) -> NDArray[np.intp]:
    """Return the bin, 0 to 14, of each of (N,) probabilities; a bin holds its lower edge, and the last holds 1 too.

    Raises:
        ValueError: a probability outside [0, 1], or NaN.
    """
    values = np.asarray(probabilities, dtype=np.float64)
    odd = ~((values >= 0) & (values <= 1))
    if odd.any():
        raise ValueError(f"{odd.sum()} probabilities are outside [0, 1] or NaN; the first is {values[odd][0]}")
    edges = np.arange(BINS + 1) / BINS
    return np.minimum(np.searchsorted(edges, values, side="right") - 1, BINS - 1)


def roc_points(labels: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    """Return false and true positive rates from (0, 0) to (1, 1), thinned; both classes must be there."""
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    return _thin(fpr, tpr)


def precision_recall_points(labels: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    """Return recall and precision from recall 0 on, thinned; a positive must be there."""
    precision, recall, _ = precision_recall_curve(labels, scores)
    return _thin(recall[::-1], precision[::-1])


def _thin(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Keep the first point in each cell that a curve passes through, and the last of all: nothing moves by a cell."""
    cells = np.floor(np.stack([x, y]) * RESOLUTION)
    kept = np.ones(len(x), dtype=bool)
    kept[1:-1] = (cells[:, 1:-1] != cells[:, :-2]).any(axis=0)
    return x[kept], y[kept]
