"""Ranking and classification metrics of the findings, computed by scikit-learn; undefined metrics are None."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import average_precision_score, f1_score, precision_recall_fscore_support, roc_auc_score


@dataclass(frozen=True)
class FindingAuroc:
    """AUROC of one finding.

    Attributes:
        finding: name of the finding.
        positives, negatives: number of images in each class.
        auroc: None if a class is absent.
    """

    finding: str
    positives: int
    negatives: int
    auroc: float | None


def aurocs(labels: NDArray[np.floating], scores: NDArray[np.floating], names: Sequence[str]) -> list[FindingAuroc]:
    """Return the AUROC of each finding over the rows where its label is known.

    Args:
        labels: (N, F) of 0 and 1, NaN where unknown.
        scores: (N, F) finite, higher for more likely; any monotonic scale.
        names: (F,) names of the findings.

    Raises:
        ValueError: different shapes, or scores that are not finite; the message names the finding.

    Example:
        >>> labels, scores = np.zeros((4, 2)), np.zeros((4, 2))
        >>> labels[:, 0], scores[:, 0] = [0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]
        >>> found = aurocs(labels, scores, ["Mass", "Hernia"])
        >>> found[0]
        FindingAuroc(finding='Mass', positives=2, negatives=2, auroc=0.75)
        >>> mean_auroc(found)  # the other finding has no positives
        (0.75, 1)
    """
    _check(labels, scores, names)
    found = []
    for column, finding in enumerate(names):
        known = ~np.isnan(labels[:, column])  # (N,)
        label, score = labels[known, column], scores[known, column]  # (K,) known rows
        positives = int(label.sum())
        negatives = len(label) - positives
        defined = positives > 0 and negatives > 0
        auroc = float(roc_auc_score(label, score)) if defined else None
        found.append(FindingAuroc(finding, positives, negatives, auroc))
    return found


def mean_auroc(found: Sequence[FindingAuroc]) -> tuple[float | None, int]:
    """Return the mean over the findings with a defined AUROC, None if no finding has one, and their number."""
    values = [entry.auroc for entry in found if entry.auroc is not None]
    return (float(np.mean(values)) if values else None), len(values)


def macro_f1(labels: NDArray[np.floating], probabilities: NDArray[np.floating]) -> float:
    """Return the mean F1 over the F findings at threshold 0.5; a finding neither present nor predicted counts 0.

    Args:
        labels: (N, F) of 0 and 1, NaN where unknown.
        probabilities: (N, F) finite.

    Raises:
        ValueError: different shapes, or probabilities that are not finite; the message numbers the columns.
    """
    _check(labels, probabilities, [f"column {column}" for column in range(labels.shape[-1])])
    values = []
    for label, predicted_positive in zip(labels.T, probabilities.T > 0.5, strict=True):  # (N,) each
        known = ~np.isnan(label)  # (N,)
        values.append(f1_score(label[known], predicted_positive[known], zero_division=0) if known.any() else 0.0)
    return float(np.mean(values))


def auroc_and_ap(labels: ArrayLike, scores: ArrayLike) -> tuple[float | None, float | None]:
    """Return AUROC and average precision of one ranking; None for both if a class is absent.

    Args:
        labels: (N,) of 0 and 1.
        scores: (N,) finite, higher for more likely.
    """
    ground_truth = np.asarray(labels)
    if not ground_truth.any() or ground_truth.all():
        return None, None
    return float(roc_auc_score(ground_truth, scores)), float(average_precision_score(ground_truth, scores))


def any_label(labels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (N,) float32: 1 if a label of (N, F) is positive, 0 if all are negative, otherwise NaN."""
    positive = (labels == 1).any(axis=1)  # (N,)
    unknown = np.isnan(labels).any(axis=1) & ~positive  # (N,)
    return np.where(unknown, np.float32(np.nan), positive).astype(np.float32)


def averaged_metrics(labels: ArrayLike, predicted_positive: ArrayLike) -> dict[str, dict[str, float]]:
    """Return precision, recall and F1 by average, with the averages of multi-label papers.

    ``micro`` pools all findings, ``macro`` is the mean over findings, ``weighted`` is the mean over findings
    weighted by their positives, and ``samples`` is the mean over images. 0 / 0 counts as 0, as in those papers,
    both for a finding and for an image without a positive label or prediction; ``samples`` is therefore low if most
    images are normal.

    Args:
        labels: (N, F) of 0 and 1.
        predicted_positive: (N, F) of 0 and 1; 1 if the probability is at least the threshold.

    Source: scikit-learn's precision_recall_fscore_support with ``zero_division=0``.
    """
    names = ("precision", "recall", "f1")
    return {
        average: dict(zip(names, _precision_recall_f1(labels, predicted_positive, average), strict=True))
        for average in ("micro", "macro", "weighted", "samples")
    }


def _precision_recall_f1(labels: ArrayLike, predicted_positive: ArrayLike, average: str) -> list[float]:
    """Return precision, recall and F1 of (N, F) labels and predictions."""
    # scikit-learn reads a single column as one binary label and would average over its two classes. An extra column of
    # zeros makes the input multi-label, and `labels=columns` excludes that column from the average.
    padded = (np.pad(np.asarray(cells, dtype=np.int8), ((0, 0), (0, 1))) for cells in (labels, predicted_positive))
    ground_truth, predictions = padded  # (N, F + 1) each
    columns = list(range(ground_truth.shape[1] - 1))
    *averages, _ = precision_recall_fscore_support(
        ground_truth, predictions, labels=columns, average=average, zero_division=0
    )
    return [float(value) for value in averages]


def _check(labels: NDArray[np.floating], scores: NDArray[np.floating], names: Sequence[str]) -> None:
    """Raise ValueError unless labels and scores are (N, F) and the scores finite."""
    if labels.shape != scores.shape or labels.ndim != 2 or labels.shape[1] != len(names):
        raise ValueError(f"labels {labels.shape} and scores {scores.shape}; expected both (N, {len(names)})")
    invalid = ~np.isfinite(scores).all(axis=0)  # (F,)
    if invalid.any():
        found = ", ".join(names[column] for column in np.flatnonzero(invalid).tolist())
        raise ValueError(f"scores of {found} contain NaN or infinity")
