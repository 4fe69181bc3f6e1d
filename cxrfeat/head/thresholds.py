"""Operating points: where a probability becomes a yes, and what that does to both classes.

A threshold t calls an image positive where its probability is at least t. Only values that occur are candidates, and of
thresholds that are equally good the highest is taken: it calls the fewest images positive.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cxrfeat.errors import ConfigError

YOUDEN, F1 = "youden", "f1"
"""Rules: the highest sensitivity + specificity - 1 (Youden, Cancer 1950); the highest F1."""

RULES = (YOUDEN, F1, "sensitivity_0.90")
"""Operating points of a head, chosen for it on validation."""

DEFAULT_RULE = YOUDEN
"""Of whoever scores with a head."""

_SENSITIVITY = re.compile(r"sensitivity_(0?\.\d+|1(?:\.0*)?)")
"""Rule ``sensitivity_0.90``: the highest threshold whose sensitivity is at least the target."""


@dataclass(frozen=True)
class Confusion:
    """Counts of one finding at one threshold, and the rates that follow; a rate whose denominator is 0 is None.

    Attributes:
        tp, fp, tn, fn: images that are truly positive, falsely positive, truly negative, falsely negative.
    """

    tp: int
    fp: int
    tn: int
    fn: int

    @property
    def sensitivity(self) -> float | None:
        """Share of the positives that are found: recall."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def specificity(self) -> float | None:
        """Share of the negatives that are left alone."""
        return _ratio(self.tn, self.tn + self.fp)

    @property
    def ppv(self) -> float | None:
        """Share of the calls that are right: positive predictive value, precision."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def npv(self) -> float | None:
        """Share of the images not called that are negative: negative predictive value."""
        return _ratio(self.tn, self.tn + self.fn)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of sensitivity and PPV; None only where there is neither a positive nor a call."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def accuracy(self) -> float | None:
        """Share of the images that are called right."""
        return _ratio(self.tp + self.tn, self.tp + self.fp + self.tn + self.fn)


def choose_threshold(labels: ArrayLike, probabilities: ArrayLike, rule: str) -> float | None:
    """Return the threshold that a rule takes on these images, or None where a class is absent.

    Args:
        labels: (N,) of 0 and 1.
        probabilities: (N,) finite, on any monotonous scale; a threshold is one of them.
        rule: ``youden``, ``f1``, or ``sensitivity_T`` with a target 0 < T <= 1, for example ``sensitivity_0.90``.

    Raises:
        ConfigError: another rule.
        ValueError: different shapes, labels other than 0 and 1, probabilities that are NaN or infinite.

    Example:
        >>> labels, probabilities = [0, 0, 1, 1], [0.1, 0.4, 0.3, 0.8]
        >>> choose_threshold(labels, probabilities, "sensitivity_0.90")  # both positives must be found
        0.3
        >>> confusion(labels, probabilities, 0.3)
        Confusion(tp=2, fp=1, tn=1, fn=0)
    """
    gain = _gain(rule)
    truth, values = _check(labels, probabilities)
    positives = int(truth.sum())
    negatives = len(truth) - positives
    if not positives or not negatives:
        return None
    order = np.argsort(values)[::-1]
    descending = values[order]
    last = np.append(np.flatnonzero(np.diff(descending)), len(descending) - 1)  # of each run of equal values
    tp = np.cumsum(truth[order], dtype=np.int64)[last]
    fp = last + 1 - tp
    # argmax takes the first of equals, and thresholds fall.
    return float(descending[last[np.argmax(gain(tp, fp, positives, negatives))]])


def confusion(labels: ArrayLike, probabilities: ArrayLike, threshold: float) -> Confusion:
    """Count what a threshold does.

    Args:
        labels: (N,) of 0 and 1.
        probabilities: (N,) finite.
        threshold: an image is called where its probability is at least this.

    Raises:
        ValueError: as :func:`choose_threshold`; a threshold that is NaN.
    """
    if np.isnan(threshold):
        raise ValueError("the threshold is NaN")
    truth, values = _check(labels, probabilities)
    called = values >= threshold
    tp, fp = int((called & truth).sum()), int((called & ~truth).sum())
    positives = int(truth.sum())
    return Confusion(tp, fp, tn=len(truth) - positives - fp, fn=positives - tp)


def rates(tp: ArrayLike, fp: ArrayLike, tn: ArrayLike, fn: ArrayLike) -> dict[str, NDArray[np.float64]]:
    """Return the rates of :class:`Confusion` by name for arrays of counts of one shape, NaN where it has None."""
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
        name: np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
        for name, (part, whole) in fractions.items()
    }


_Counts = NDArray[np.int64]
_Gain = Callable[[_Counts, _Counts, int, int], NDArray[np.generic]]


def _gain(rule: str) -> _Gain:
    """Return what a rule maximises, from tp and fp at falling thresholds and the numbers of positives and negatives.

    Gains are compared exactly: integers, or ratios of integers far below 2**53, which are equal only if the fractions are.
    """
    if rule == YOUDEN:
        return lambda tp, fp, positives, negatives: tp * negatives - fp * positives
    if rule == F1:
        return lambda tp, fp, positives, negatives: 2 * tp / (tp + fp + positives)
    match = _SENSITIVITY.fullmatch(rule)
    if match is None or not float(match[1]) > 0:
        raise ConfigError(f"rule {rule!r}; known are {YOUDEN}, {F1} and sensitivity_T with 0 < T <= 1")
    target = float(match[1])
    return lambda tp, fp, positives, negatives: tp / positives >= target


def _check(labels: ArrayLike, probabilities: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.floating]]:
    truth, values = np.asarray(labels), np.asarray(probabilities)
    if truth.ndim != 1 or truth.shape != values.shape:
        raise ValueError(f"labels {truth.shape} and probabilities {values.shape}; expected both (N,)")
    if not np.isin(truth, (0, 1)).all():
        raise ValueError("labels hold values other than 0 and 1")
    odd = np.flatnonzero(~np.isfinite(values))
    if len(odd):
        raise ValueError(f"{len(odd)} probabilities are NaN or infinite; the first is row {odd[0]}")
    return truth.astype(bool), values


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
