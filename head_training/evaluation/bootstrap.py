"""Intervals by resampling patients: the cluster bootstrap, fast enough for a thousand resamples of a whole test set.

Films of one patient resemble each other, so images are not the unit that is drawn: patients are, with replacement, and
each brings all of its images as often as it was drawn. A resample is then one integer a patient, and everything that is
needed is a product of a sparse matrix, made once, with these integers: no image is touched again.

Source: Davison and Hinkley, Bootstrap Methods and their Application, 1997, chapters 2.4 and 3.8; percentile intervals.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

CONFIDENCE = 0.95

MIN_DEFINED = 0.95
"""Share of resamples in which a number must be defined, or there is no interval: where three patients hold all the
positives, one resample in twenty has none, and the others say little."""

RESAMPLES = 1000
"""Enough for the ends of a 95 % interval: 25 resamples lie beyond each."""

_CELLS = 1 << 18
"""Numbers of a block of resamples: what stays in a core's cache."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A percentile interval.

    Attributes:
        low, high: None where too few resamples define the number.
        resamples: how many define it.
    """

    low: float | None
    high: float | None
    resamples: int


class PatientBootstrap:
    """Resamples of the patients of N images, the same for every number, so that numbers can be compared.

    Attributes:
        counts: (P, R) float64: how often each of the P patients, in sorted order, was drawn in each resample.

    Example:
        >>> bootstrap = PatientBootstrap(["1", "1", "2", "3", "4"], resamples=3)
        >>> bootstrap.sums([[1], [1], [1], [1], [1]]).ravel()  # images of each resample: patient 1 brings two
        array([4., 7., 5.])
    """

    def __init__(self, patients: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> None:
        """Draw the resamples.

        Args:
            patients: (N,) the patient of each image.
            resamples: how many, at least 1.
            seed: the same patients and seed give the same resamples.

        Raises:
            ValueError: no image, no resample.
        """
        names, codes = np.unique(np.asarray(patients), return_inverse=True)
        if not len(codes) or resamples < 1:
            raise ValueError(f"{len(codes)} images and {resamples} resamples; expected at least 1 of each")
        self._codes = codes
        random = np.random.default_rng(seed)
        drawn = (random.integers(len(names), size=len(names)) for _ in range(resamples))
        self.counts: Floats = np.stack([np.bincount(draw, minlength=len(names)) for draw in drawn], axis=1).astype(
            float
        )

    def sums(self, values: ArrayLike) -> Floats:
        """Return (R, K): the sum of (N, K) values over the images of each resample.

        Raises:
            ValueError: values of another number of images.
        """
        columns = np.asarray(values, dtype=np.float64)
        if columns.ndim != 2 or len(columns) != len(self._codes):
            raise ValueError(f"values {columns.shape}; expected ({len(self._codes)}, K)")
        members = sparse.csr_array(
            (np.ones(len(columns)), (self._codes, np.arange(len(columns)))), (len(self.counts), len(columns))
        )
        totals: Floats = self.counts.T @ (members @ columns)
        return totals

    def rank(self, labels: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
        """Return AUROC (R,) and average precision (R,) in each resample, NaN where it lacks a class.

        Args:
            labels: (N,) of 0 and 1.
            scores: (N,) finite; ties count half for the AUROC and as one step for the average precision, as in
                scikit-learn.

        Raises:
            ValueError: labels or scores of another number of images, labels other than 0 and 1, scores not finite.
        """
        return self._rank(np.asarray(labels), np.asarray(scores), self._codes)

    def rank_micro(self, labels: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
        """Return what :meth:`rank` does, of (N, F) labels and scores with all their columns in one ranking."""
        truth, values = np.asarray(labels), np.asarray(scores)
        if truth.ndim != 2 or truth.shape != values.shape:
            raise ValueError(f"labels {truth.shape} and scores {values.shape}; expected both (N, F)")
        return self._rank(truth.ravel(), values.ravel(), np.repeat(self._codes, truth.shape[1]))

    def _rank(
        self, labels: NDArray[np.generic], scores: NDArray[np.generic], codes: NDArray[np.intp]
    ) -> tuple[Floats, Floats]:
        if not labels.shape == scores.shape == codes.shape:
            raise ValueError(f"labels {labels.shape}, scores {scores.shape}; expected {codes.shape}")
        if not np.isin(labels, (0, 1)).all() or not np.isfinite(scores).all():
            raise ValueError("labels hold values other than 0 and 1, or scores NaN or infinity")
        steps, matrix = _to_steps(labels.astype(bool), scores, codes, len(self.counts))
        parts = [_auroc_and_ap(steps, matrix @ block) for block in self._blocks(matrix.shape[0])]
        auroc, average_precision = np.concatenate(parts, axis=1)
        return auroc, average_precision

    def _blocks(self, rows: int) -> Iterator[Floats]:
        """Yield the counts, a few resamples at a time."""
        width = max(1, _CELLS // rows)
        for start in range(0, self.counts.shape[1], width):
            yield np.ascontiguousarray(self.counts[:, start : start + width])


def interval(replicates: ArrayLike) -> Interval:
    """Return the 95 % percentile interval of (R,) replicates, NaN = undefined in that resample."""
    values = np.asarray(replicates, dtype=np.float64)
    defined = values[~np.isnan(values)]
    if len(defined) < MIN_DEFINED * len(values):
        return Interval(None, None, len(defined))
    low, high = np.quantile(defined, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(low), float(high), len(defined))


def _to_steps(
    labels: NDArray[np.bool_], scores: NDArray[np.generic], codes: NDArray[np.intp], patients: int
) -> tuple[int, sparse.csr_array]:
    """Cut the ranking into steps: one for each distinct score that a positive has, from the highest down.

    Between two steps only the number of negatives matters, so a finding with few positives has few steps.

    Returns:
        The number of steps S, and a (3 S + 1, P) matrix of images a patient: positives of each step, negatives tied
        with it, negatives between it and the step above, and last the negatives below all steps.
    """
    order = np.argsort(scores)[::-1]
    positive, falling = labels[order], scores[order]
    run = np.concatenate([[0], np.cumsum(falling[1:] != falling[:-1])])  # of equal scores
    has_positive = np.zeros(run[-1] + 1, dtype=bool)
    has_positive[run[positive]] = True
    above = np.concatenate([[0], np.cumsum(has_positive)])  # steps above each run
    steps, step = int(above[-1]), above[run]
    row = np.where(positive, step, np.where(has_positive[run], steps + step, 2 * steps + step))
    ones = np.ones(len(row))
    return steps, sparse.coo_array((ones, (row, codes[order])), (3 * steps + 1, patients)).tocsr()


def _auroc_and_ap(steps: int, images: Floats) -> Floats:
    """Return (2, B): AUROC and average precision of B resamples, from (3 S + 1, B) images in each step's rows."""
    positive, tied, between = np.split(images[:-1], 3) if steps else (images[:0],) * 3
    positives, negatives = positive.sum(axis=0), images[steps:].sum(axis=0)
    found = np.cumsum(positive, axis=0)
    above = np.cumsum(between + tied, axis=0) - tied
    precision = np.divide(found, found + above + tied, out=np.zeros_like(found), where=positive > 0)
    wrong = (positive * (above + tied / 2)).sum(axis=0)  # pairs in the wrong order
    with np.errstate(invalid="ignore"):  # 0 / 0 where a class is absent
        both = np.stack([1 - wrong / (positives * negatives), (positive * precision).sum(axis=0) / positives])
    both[:, (positives == 0) | (negatives == 0)] = np.nan
    return both
