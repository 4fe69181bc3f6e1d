"""How good scores are, finding by finding; scikit-learn computes, this module decides what can be computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score, roc_auc_score

from cxrfeat.findings import FINDINGS


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


def _check(labels: NDArray[np.floating], scores: NDArray[np.floating]) -> None:
    if labels.shape != scores.shape or labels.ndim != 2 or labels.shape[1] != len(FINDINGS):
        raise ValueError(f"labels {labels.shape} and scores {scores.shape}; expected both (N, {len(FINDINGS)})")
    odd = ~np.isfinite(scores).all(axis=0)
    if odd.any():
        raise ValueError(f"scores of {[FINDINGS[column] for column in np.flatnonzero(odd)]} hold NaN or infinity")
