"""How good scores are, finding by finding; scikit-learn computes, this module decides what can be computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import average_precision_score, f1_score, precision_recall_fscore_support, roc_auc_score

from cxrfeat.labels.findings import FINDINGS


@dataclass(frozen=True)
class FindingAuroc:
    """How well one finding is ranked.

    Attributes:
        finding: its name.
        positives, negatives: rows of either class.
        auroc: None where a class is absent: it is not defined there.
    """

    finding: str
    positives: int
    negatives: int
    auroc: float | None


def aurocs(labels: NDArray[np.floating], scores: NDArray[np.floating]) -> list[FindingAuroc]:
    """Return the AUROC of each finding.

    Args:
        labels: (N, 14) of 0 and 1.
        scores: (N, 14), higher for more likely; any monotonous scale.

    Raises:
        ValueError: different shapes, or scores that are not finite, with the finding.

    Example:
        >>> labels, scores = np.zeros((4, 14)), np.zeros((4, 14))
        >>> labels[:, 0], scores[:, 0] = [0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]
        >>> aurocs(labels, scores)[0]
        FindingAuroc(finding='Atelectasis', positives=2, negatives=2, auroc=0.75)
        >>> mean_auroc(aurocs(labels, scores))  # of the others nobody has any
        (0.75, 1)
    """
    _check(labels, scores)
    found = []
    for column, finding in enumerate(FINDINGS):
        positives = int(labels[:, column].sum())
        negatives = len(labels) - positives
        defined = positives > 0 and negatives > 0
        auroc = float(roc_auc_score(labels[:, column], scores[:, column])) if defined else None
        found.append(FindingAuroc(finding, positives, negatives, auroc))
    return found


def mean_auroc(found: Sequence[FindingAuroc]) -> tuple[float | None, int]:
    """Return the mean over the findings whose AUROC is defined, None where there is none, and how many there are."""
    values = [entry.auroc for entry in found if entry.auroc is not None]
    return (float(np.mean(values)) if values else None), len(values)


def macro_f1(labels: NDArray[np.floating], probabilities: NDArray[np.floating]) -> float:
    """Return the mean F1 over the findings at threshold 0.5; a finding that is neither there nor found counts 0.

    Raises:
        ValueError: as :func:`aurocs`.
    """
    _check(labels, probabilities)
    return float(f1_score(labels, probabilities > 0.5, average="macro", zero_division=0))


def rank_quality(labels: ArrayLike, scores: ArrayLike) -> tuple[float | None, float | None]:
    """Return AUROC and average precision of one ranking, None where a class is absent: no ranking can be judged there.

    Args:
        labels: (N,) of 0 and 1.
        scores: (N,) finite, higher for more likely.
    """
    truth = np.asarray(labels)
    if not truth.any() or truth.all():
        return None, None
    return float(roc_auc_score(truth, scores)), float(average_precision_score(truth, scores))


def averaged(labels: ArrayLike, called: ArrayLike) -> dict[str, dict[str, float]]:
    """Return precision, recall and F1, averaged as multi-label papers do.

    ``micro`` counts all findings together, ``macro`` is the mean over findings, ``weighted`` the mean by their positives,
    ``samples`` the mean over images. 0 / 0 counts 0, as there: a finding that is neither there nor called, and an image
    without a finding and without a call, so ``samples`` is low where most films show nothing.

    Args:
        labels: (N, F) of 0 and 1.
        called: (N, F) of 0 and 1: what is over its threshold.
    """
    names = ("precision", "recall", "f1")
    return {
        average: dict(zip(names, _averaged(labels, called, average), strict=True))
        for average in ("micro", "macro", "weighted", "samples")
    }


def _averaged(labels: ArrayLike, called: ArrayLike, average: str) -> list[float]:
    # scikit-learn takes a single column for one label with two classes, and would average over both. With a column that
    # nobody has it is multi-label, and `labels` leaves that column out again.
    truth, calls = (np.pad(np.asarray(each, dtype=np.int8), ((0, 0), (0, 1))) for each in (labels, called))
    columns = list(range(truth.shape[1] - 1))
    *found, _ = precision_recall_fscore_support(truth, calls, labels=columns, average=average, zero_division=0)
    return [float(value) for value in found]


def _check(labels: NDArray[np.floating], scores: NDArray[np.floating]) -> None:
    if labels.shape != scores.shape or labels.ndim != 2 or labels.shape[1] != len(FINDINGS):
        raise ValueError(f"labels {labels.shape} and scores {scores.shape}; expected both (N, {len(FINDINGS)})")
    odd = ~np.isfinite(scores).all(axis=0)
    if odd.any():
        raise ValueError(f"scores of {[FINDINGS[column] for column in np.flatnonzero(odd)]} hold NaN or infinity")
