"""Calibration and thresholds of a trained head, both fitted on validation.

Calibration undoes the label weights, then applies Platt scaling where it helps.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from cxrfeat.head.calibration import Calibration
from cxrfeat.head.thresholds import RULES, choose_threshold
from cxrfeat.labels.findings import ANY_FINDING, any_finding
from cxrfeat.labels.label_set import LabelSet
from head_training.evaluation.ranking import any_label

MIN_IMAGES = 20
"""Minimum number of validation images of either class for Platt scaling: with fewer, it fits noise."""

_FOLDS = 5
_NO_PENALTY = 1e12
"""scikit-learn's C, so large that two parameters are not regularised."""


class CalibrationMethod(StrEnum):
    """Method applied to the logits of a finding after the label weights are undone."""

    NONE = "none"
    PLATT = "platt"


def fit_calibration(
    logits: NDArray[np.float32], labels: NDArray[np.float32], patients: NDArray[np.str_], weights: NDArray[np.float32]
) -> tuple[Calibration, list[CalibrationMethod]]:
    """Fit the calibration of each finding.

    Platt scaling is applied where it lowers the log loss on held-out patients (five folds) and its slope is positive;
    elsewhere only the label weights are undone.

    Args:
        logits: (N, F) of the validation split.
        labels: (N, F) of 0 and 1, NaN where unknown.
        patients: (N,) patient ids; all rows of a patient are in one fold.
        weights: (2, F) label weights of the training, for a negative and a positive.

    Returns:
        The calibration, and the method of each finding.
    """
    offsets = np.log(weights[0].astype(np.float64) / weights[1])  # (F,): a weighted logit is too high by -offset
    slope, intercept, methods = np.ones(len(offsets)), offsets.copy(), []
    for column, offset in enumerate(offsets):
        known = ~np.isnan(labels[:, column])  # (N,)
        logit, label = logits[known][:, [column]].astype(np.float64) + offset, labels[known, column] > 0.5
        line = _fit_platt(logit, label, patients[known])
        methods.append(CalibrationMethod.NONE if line is None else CalibrationMethod.PLATT)
        if line is not None:
            slope[column], intercept[column] = line[0], line[0] * offset + line[1]
    return Calibration(slope, intercept), methods


def choose_thresholds(
    labels: NDArray[np.float32], probabilities: NDArray[np.float32], label_set: LabelSet
) -> dict[str, dict[str, float | None]]:
    """Return the thresholds of each label and of any finding, by rule of :data:`RULES`; None where a class is absent.

    Args:
        labels: (N, F) of 0 and 1, NaN where unknown, of the validation split.
        probabilities: (N, F), calibrated.
        label_set: the F labels.
    """
    findings = slice(label_set.findings_count)
    ground_truth = {**dict(zip(label_set.outputs, labels.T, strict=True)), ANY_FINDING: any_label(labels[:, findings])}
    scores = dict(zip(label_set.outputs, probabilities.T, strict=True))
    scores[ANY_FINDING] = any_finding(probabilities[:, findings]).astype(np.float32)  # the dtype of predictions
    known = {name: ~np.isnan(label) for name, label in ground_truth.items()}  # (N,) each
    return {
        rule: {
            name: choose_threshold(label[known[name]], scores[name][known[name]], rule)
            for name, label in ground_truth.items()
        }
        for rule in RULES
    }


def _fit_platt(
    logit: NDArray[np.float64], label: NDArray[np.bool_], patients: NDArray[np.str_]
) -> tuple[float, float] | None:
    """Return slope and intercept of (N, 1) logits, or None where Platt scaling cannot be fitted or does not help."""
    if min(label.sum(), (~label).sum()) < MIN_IMAGES or len(set(patients)) < _FOLDS:
        return None
    folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=0)
    before = after = 0.0
    for fit, held_out in folds.split(logit, label, patients):
        if len(set(label[fit])) < 2:
            return None
        model = LogisticRegression(C=_NO_PENALTY).fit(logit[fit], label[fit])
        after += _log_loss(label[held_out], model.decision_function(logit[held_out]))
        before += _log_loss(label[held_out], logit[held_out, 0])
    model = LogisticRegression(C=_NO_PENALTY).fit(logit, label)
    slope = float(model.coef_[0, 0])
    return (slope, float(model.intercept_[0])) if after < before and slope > 0 else None


def _log_loss(label: NDArray[np.bool_], logit: NDArray[np.float64]) -> float:
    """Return the sum of the log losses of (N,) logits: log(1 + exp(∓logit))."""
    return float(np.logaddexp(0, np.where(label, -logit, logit)).sum())
