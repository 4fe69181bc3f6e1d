"""Operating points: choice of decision thresholds, and the resulting confusion counts and rates.

An image is predicted positive if its probability is at least the threshold. Only probabilities that occur are
candidates. Of equally good thresholds the highest is chosen, which predicts the fewest positives.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cxrfeat.errors import ConfigError

YOUDEN, F1 = "youden", "f1"
"""Rules: maximise sensitivity + specificity - 1 (Youden, Cancer 1950), or maximise F1."""

RULES = (YOUDEN, F1, "sensitivity_0.90")
"""Rules whose thresholds are chosen on the validation set and stored with a head."""

DEFAULT_RULE = YOUDEN
"""Default threshold rule for scoring."""

_SENSITIVITY = re.compile(r"sensitivity_(0?\.\d+|1(?:\.0*)?)")
"""Pattern of rules such as ``sensitivity_0.90``: the highest threshold that reaches the target sensitivity."""


@dataclass(frozen=True)
class Confusion:
    """Confusion counts of one finding at one threshold, and their rates; a rate with denominator 0 is None.

    Attributes:
        tp, fp, tn, fn: numbers of true positive, false positive, true negative and false negative images.
    """

    tp: int
    fp: int
    tn: int
    fn: int

    @property
    def sensitivity(self) -> float | None:
        """Share of positives that are predicted positive (recall)."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def specificity(self) -> float | None:
        """Share of negatives that are predicted negative."""
        return _ratio(self.tn, self.tn + self.fp)

    @property
    def ppv(self) -> float | None:
        """Positive predictive value: share of predicted positives that are positive (precision)."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def npv(self) -> float | None:
        """Negative predictive value: share of predicted negatives that are negative."""
        return _ratio(self.tn, self.tn + self.fn)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of sensitivity and PPV; None if no image is positive or predicted positive."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def accuracy(self) -> float | None:
        """Share of images that are predicted correctly."""
        return _ratio(self.tp + self.tn, self.tp + self.fp + self.tn + self.fn)


def choose_threshold(labels: ArrayLike, probabilities: ArrayLike, rule: str) -> float | None:
    """Return the threshold that a rule chooses on these images, or None if a class is absent.

    Args:
        labels: (N,), each 0 or 1.
        probabilities: (N,) finite, on any monotonic scale; the threshold is one of them.
        rule: ``youden``, ``f1``, or ``sensitivity_T`` with a target 0 < T <= 1, for example ``sensitivity_0.90``.

    Raises:
        ConfigError: the rule is unknown.
        ValueError: the shapes differ, a label is neither 0 nor 1, or a probability is NaN or infinite.

    Example:
        >>> labels, probabilities = [0, 0, 1, 1], [0.1, 0.4, 0.3, 0.8]
        >>> choose_threshold(labels, probabilities, "sensitivity_0.90")  # both positives must be predicted positive
        0.3
        >>> confusion(labels, probabilities, 0.3)
        Confusion(tp=2, fp=1, tn=1, fn=0)
    """
    objective = _objective(rule)
    ground_truth, values = _check(labels, probabilities)
    positives = int(ground_truth.sum())
    negatives = len(ground_truth) - positives
    if not positives or not negatives:
        return None
    order = np.argsort(values)[::-1]  # (N,)
    descending = values[order]
    # Last index of each run of equal values: (T,), with T distinct thresholds.
    last = np.append(np.flatnonzero(np.diff(descending)), len(descending) - 1)
    tp = np.cumsum(ground_truth[order], dtype=np.int64)[last]  # (T,)
    fp = last + 1 - tp
    # Thresholds are in descending order, and argmax returns the first of equal values: the highest threshold.
    return float(descending[last[np.argmax(objective(tp, fp, positives, negatives))]])


def confusion(labels: ArrayLike, probabilities: ArrayLike, threshold: float) -> Confusion:
    """Return the confusion counts at a threshold.

    Args:
        labels: (N,), each 0 or 1.
        probabilities: (N,) finite.
        threshold: an image is predicted positive if its probability is at least this.

    Raises:
        ValueError: same conditions as for :func:`choose_threshold`, or the threshold is NaN.
    """
    if np.isnan(threshold):
        raise ValueError("the threshold is NaN")
    ground_truth, values = _check(labels, probabilities)
    predicted_positive = values >= threshold  # (N,) bool
    tp, fp = int((predicted_positive & ground_truth).sum()), int((predicted_positive & ~ground_truth).sum())
    positives = int(ground_truth.sum())
    return Confusion(tp, fp, tn=len(ground_truth) - positives - fp, fn=positives - tp)


def rates(tp: ArrayLike, fp: ArrayLike, tn: ArrayLike, fn: ArrayLike) -> dict[str, NDArray[np.float64]]:
    """Return the rates of :class:`Confusion` by name for arrays of counts of equal shape; NaN for a denominator 0."""
    tp, fp, tn, fn = (np.asarray(count, dtype=np.float64) for count in (tp, fp, tn, fn))
    fractions = {
        "sensitivity": (tp, tp + fn),
        "specificity": (tn, tn + fp),
        "ppv": (tp, tp + fp),
        "npv": (tn, tn + fn),
        "f1": (2 * tp, 2 * tp + fp + fn),
        "accuracy": (tp + tn, tp + fp + tn + fn),
    }
    return {
        name: np.divide(numerator, denominator, out=np.full(denominator.shape, np.nan), where=denominator > 0)
        for name, (numerator, denominator) in fractions.items()
    }


_Counts = NDArray[np.int64]
_Objective = Callable[[_Counts, _Counts, int, int], NDArray[np.generic]]


def _objective(rule: str) -> _Objective:
    """Return the function that a rule maximises.

    Its arguments are tp and fp, both (T,), at descending thresholds, and the numbers of positives and negatives. Its
    values compare exactly: integers, or ratios of integers far below 2**53, which are equal only if the fractions are.
    """
    if rule == YOUDEN:
        return lambda tp, fp, positives, negatives: tp * negatives - fp * positives
    if rule == F1:
        return lambda tp, fp, positives, negatives: 2 * tp / (tp + fp + positives)
    match = _SENSITIVITY.fullmatch(rule)
    if match is None or not float(match[1]) > 0:
        raise ConfigError(f"unknown rule {rule!r}; expected {YOUDEN}, {F1} or sensitivity_T with 0 < T <= 1")
    target = float(match[1])
    return lambda tp, fp, positives, negatives: tp / positives >= target


def _check(labels: ArrayLike, probabilities: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.floating]]:
    ground_truth, values = np.asarray(labels), np.asarray(probabilities)
    if ground_truth.ndim != 1 or ground_truth.shape != values.shape:
        raise ValueError(f"labels {ground_truth.shape} and probabilities {values.shape}; expected (N,) for both")
    if not np.isin(ground_truth, (0, 1)).all():
        raise ValueError("labels contain values other than 0 and 1")
    invalid = np.flatnonzero(~np.isfinite(values))
    if len(invalid):
        raise ValueError(f"{len(invalid)} probabilities are NaN or infinite; the first is in row {invalid[0]}")
    return ground_truth.astype(bool), values


def _ratio(numerator: int, denominator: int) -> float | None:
    return numerator / denominator if denominator else None
