"""Cluster bootstrap over patients: a thousand resamples of a whole test set in seconds.

Images of one patient are correlated, so patients are resampled with replacement, not images; all images of a patient
enter a resample as often as the patient is drawn. A resample is therefore one count per patient, and the metrics of all
resamples follow from the product of a sparse matrix of image counts, built once per metric, with these counts.

Source: Davison and Hinkley, Bootstrap Methods and their Application, 1997, chapters 2.4 and 3.8; percentile intervals.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

CONFIDENCE = 0.95
"""Nominal coverage of an interval."""

MIN_DEFINED = 0.95
"""Minimum share of resamples that must define a metric for it to get an interval. If all positives belong to three
patients, one resample in twenty has no positive, and the others carry little information."""

RESAMPLES = 1000
"""Default number of resamples: 25 lie beyond each end of a 95 % interval."""

_BLOCK_SIZE = 1 << 18
"""Elements in a block of resamples; a block fits in the cache of one core."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """Percentile interval.

    Attributes:
        low, high: bounds; None if too few resamples define the metric.
        resamples: number of resamples that define the metric.
    """

    low: float | None
    high: float | None
    resamples: int


class PatientBootstrap:
    """Resamples of the patients of N images, shared by all metrics so that their intervals are comparable.

    Attributes:
        counts: (P, R) float64 number of draws of each of the P patients, in sorted order, in each of R resamples.

    Example:
        >>> bootstrap = PatientBootstrap(["1", "1", "2", "3", "4"], resamples=3)
        >>> bootstrap.sums([[1], [1], [1], [1], [1]]).ravel()  # images in each resample: patient 1 has two
        array([4., 7., 5.])
    """

    def __init__(self, patients: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> None:
        """Draw the resamples.

        Args:
            patients: (N,) patient of each image.
            resamples: number of resamples R, at least 1.
            seed: the same patients and seed give the same resamples.

        Raises:
            ValueError: no image or no resample.
        """
        names, patient_codes = np.unique(np.asarray(patients), return_inverse=True)  # (P,), (N,)
        if not len(patient_codes) or resamples < 1:
            raise ValueError(f"{len(patient_codes)} images and {resamples} resamples; expected at least 1 of each")
        self._patient_codes = patient_codes
        random = np.random.default_rng(seed)
        draws = (random.integers(len(names), size=len(names)) for _ in range(resamples))  # (P,) patients each
        counts = [np.bincount(draw, minlength=len(names)) for draw in draws]  # (P,) each
        self.counts: Floats = np.stack(counts, axis=1).astype(float)  # (P, R)

    def sums(self, values: ArrayLike) -> Floats:
        """Return the (R, K) sums of (N, K) values over the images of each resample.

        Raises:
            ValueError: values is not (N, K).
        """
        columns = np.asarray(values, dtype=np.float64)
        if columns.ndim != 2 or len(columns) != len(self._patient_codes):
            raise ValueError(f"values {columns.shape}; expected ({len(self._patient_codes)}, K)")
        # (P, N): 1 if the image belongs to the patient.
        membership = sparse.csr_array(
            (np.ones(len(columns)), (self._patient_codes, np.arange(len(columns)))), (len(self.counts), len(columns))
        )
        totals: Floats = self.counts.T @ (membership @ columns)  # (R, P) @ (P, K)
        return totals

    def count_patients(self, members: NDArray[np.bool_]) -> int:
        """Return the number of patients of the images in a mask (N,)."""
        return len(np.unique(self._patient_codes[members]))

    def rank(
        self, labels: ArrayLike, scores: ArrayLike, members: NDArray[np.bool_] | None = None
    ) -> tuple[Floats, Floats]:
        """Return the AUROC (R,) and average precision (R,) of each resample, NaN if it lacks a class.

        Args:
            labels: (K,) of 0 and 1.
            scores: (K,) finite. As in scikit-learn, ties count half in the AUROC and as one step in the average
                precision.
            members: (N,) mask of the K images that labels and scores belong to; None: all N.

        Raises:
            ValueError: labels or scores are not (K,), a label is neither 0 nor 1, or a score is not finite.

        Source: equal to scikit-learn's roc_auc_score and average_precision_score on the drawn images.
        """
        codes = self._patient_codes if members is None else self._patient_codes[members]  # (K,)
        return self._rank(np.asarray(labels), np.asarray(scores), codes)

    def rank_micro(
        self, labels: ArrayLike, scores: ArrayLike, known: NDArray[np.bool_] | None = None
    ) -> tuple[Floats, Floats]:
        """Return the micro average of :meth:`rank`: AUROC (R,) and average precision (R,) of all cells in one ranking.

        Args:
            labels: (N, F) of 0 and 1.
            scores: (N, F) finite.
            known: (N, F) mask of the cells to rank; None: all.

        Raises:
            ValueError: the shapes differ, a label is neither 0 nor 1, or a score is not finite.
        """
        ground_truth, values = np.asarray(labels), np.asarray(scores)
        if ground_truth.ndim != 2 or ground_truth.shape != values.shape:
            raise ValueError(f"labels {ground_truth.shape} and scores {values.shape}; expected both (N, F)")
        cells = np.ones(ground_truth.shape, bool) if known is None else known  # (N, F)
        codes = np.broadcast_to(self._patient_codes[:, None], ground_truth.shape)  # (N, F)
        return self._rank(ground_truth[cells], values[cells], codes[cells])  # K known cells each

    def _rank(
        self, labels: NDArray[np.generic], scores: NDArray[np.generic], codes: NDArray[np.intp]
    ) -> tuple[Floats, Floats]:
        """Return AUROC (R,) and average precision (R,) from (K,) labels, scores and patient codes."""
        if not labels.shape == scores.shape == codes.shape:
            raise ValueError(f"labels {labels.shape}, scores {scores.shape}; expected {codes.shape}")
        if not np.isin(labels, (0, 1)).all() or not np.isfinite(scores).all():
            raise ValueError("labels hold values other than 0 and 1, or scores NaN or infinity")
        steps, step_counts = _count_by_step(labels.astype(bool), scores, codes, len(self.counts))  # (3 S + 1, P)
        parts = [_auroc_and_ap(steps, step_counts @ block) for block in self._blocks(step_counts.shape[0])]  # (2, B)
        auroc, average_precision = np.concatenate(parts, axis=1)  # (2, R)
        return auroc, average_precision

    def _blocks(self, rows: int) -> Iterator[Floats]:
        """Yield (P, B) blocks of the counts, with B such that a (rows, B) product fits in the cache."""
        width = max(1, _BLOCK_SIZE // rows)
        for start in range(0, self.counts.shape[1], width):
            yield np.ascontiguousarray(self.counts[:, start : start + width])


def percentile_interval(replicates: ArrayLike) -> Interval:
    """Return the 95 % percentile interval of (R,) replicates; NaN marks a resample that does not define the metric."""
    values = np.asarray(replicates, dtype=np.float64)
    defined = values[~np.isnan(values)]
    if len(defined) < MIN_DEFINED * len(values):
        return Interval(None, None, len(defined))
    low, high = np.quantile(defined, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(low), float(high), len(defined))


def _count_by_step(
    labels: NDArray[np.bool_], scores: NDArray[np.generic], codes: NDArray[np.intp], patients: int
) -> tuple[int, sparse.csr_array]:
    """Count each patient's images in each step of the ranking.

    Each distinct score of a positive is a step, from the highest down. Negatives between two steps need only be
    counted, so a finding with few positives has few steps.

    Returns:
        The number of steps S, and a (3 S + 1, P) matrix of image counts: S rows with the positives of each step, S rows
        with the negatives tied with it, S rows with the negatives between it and the step above, and one row with the
        negatives below all steps.
    """
    order = np.argsort(scores)[::-1]  # (K,)
    positive, descending = labels[order], scores[order]  # (K,)
    run = np.concatenate([[0], np.cumsum(descending[1:] != descending[:-1])])  # (K,) run of equal scores of each image
    has_positive = np.zeros(run[-1] + 1, dtype=bool)  # (runs,)
    has_positive[run[positive]] = True
    steps_above = np.concatenate([[0], np.cumsum(has_positive)])  # (runs + 1,)
    steps, step = int(steps_above[-1]), steps_above[run]  # S, (K,)
    # Rows of the result: positive of a step, negative tied with a step, negative below `step` steps.
    row = np.where(positive, step, np.where(has_positive[run], steps + step, 2 * steps + step))  # (K,)
    ones = np.ones(len(row))
    return steps, sparse.coo_array((ones, (row, codes[order])), (3 * steps + 1, patients)).tocsr()


def _auroc_and_ap(steps: int, step_counts: Floats) -> Floats:
    """Return the (2, B) AUROC and average precision of B resamples from their (3 S + 1, B) image counts per step."""
    positive, tied, between = np.split(step_counts[:-1], 3) if steps else (step_counts[:0],) * 3  # (S, B) each
    positives, negatives = positive.sum(axis=0), step_counts[steps:].sum(axis=0)  # (B,)
    true_positives = np.cumsum(positive, axis=0)  # (S, B)
    negatives_above = np.cumsum(between + tied, axis=0) - tied  # (S, B)
    precision = np.divide(
        true_positives, true_positives + negatives_above + tied, out=np.zeros_like(positive), where=positive > 0
    )  # (S, B)
    discordant = (positive * (negatives_above + tied / 2)).sum(axis=0)  # (B,) pairs in the wrong order
    with np.errstate(invalid="ignore"):  # 0 / 0 where a class is absent
        auroc = 1 - discordant / (positives * negatives)
        average_precision = (positive * precision).sum(axis=0) / positives
    metrics = np.stack([auroc, average_precision])  # (2, B)
    metrics[:, (positives == 0) | (negatives == 0)] = np.nan
    return metrics
