"""Tests of operating points: thresholds of an exhaustive search, and scikit-learn's counts and rates."""

from __future__ import annotations

import math
from fractions import Fraction
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, f1_score, precision_score, recall_score

from cxrfeat.errors import ConfigError
from cxrfeat.head.thresholds import Confusion, choose_threshold, confusion, rates

RULES = ("youden", "f1", "sensitivity_0.90", "sensitivity_0.5", "sensitivity_1")

rows = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6)), min_size=1, max_size=40)
"""Labels and scores in sevenths, most of them tied."""


def columns(given_rows: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([label for label, _ in given_rows]), np.array([score / 7 for _, score in given_rows])


def search(labels: np.ndarray, probabilities: np.ndarray, rule: str) -> float | None:
    """Try every threshold in exact arithmetic, from the highest down."""
    positives, negatives = int((labels == 1).sum()), int((labels == 0).sum())
    if not positives or not negatives:
        return None
    best: tuple[Fraction, float] | None = None
    for threshold in sorted(set(probabilities.tolist()), reverse=True):
        tp = int(((probabilities >= threshold) & (labels == 1)).sum())
        fp = int(((probabilities >= threshold) & (labels == 0)).sum())
        if rule == "youden":
            gain = Fraction(tp, positives) - Fraction(fp, negatives)
        elif rule == "f1":
            gain = Fraction(2 * tp, 2 * tp + fp + positives - tp)
        else:
            gain = Fraction(Fraction(tp, positives) >= Fraction(rule.split("_")[1]))
        if best is None or gain > best[0]:
            best = gain, threshold
    return best[1] if best else None


@pytest.mark.parametrize("rule", RULES)
@given(rows)
def test_the_threshold_is_that_of_an_exhaustive_search(rule: str, given_rows: list[tuple[int, int]]) -> None:
    """Of equally good thresholds the highest is chosen, also with ties; None if a class is absent."""
    labels, probabilities = columns(given_rows)
    assert choose_threshold(labels, probabilities, rule) == search(labels, probabilities, rule)


@pytest.mark.parametrize("rule", RULES)
@given(rows, st.randoms(use_true_random=False))
def test_order_and_scale_do_not_matter(rule: str, given_rows: list[tuple[int, int]], random: Random) -> None:
    """Shuffled rows give the same threshold, and a monotonic map of the scores maps the threshold."""
    labels, probabilities = columns(given_rows)
    chosen = choose_threshold(labels, probabilities, rule)
    random.shuffle(given_rows)
    assert choose_threshold(*columns(given_rows), rule) == chosen
    mapped = choose_threshold(labels, np.exp(probabilities), rule)
    assert (mapped is None) == (chosen is None)
    assert chosen is None or mapped == np.exp(chosen)


@pytest.mark.parametrize(
    ("labels", "probabilities", "rule", "expected"),
    [
        ([0, 1], [0.2, 0.8], "youden", 0.8),
        ([0, 1], [0.5, 0.5], "youden", 0.5),  # the only threshold predicts all positive
        ([1, 0], [0.2, 0.8], "youden", 0.2),  # reversed ranking: all positive is as good as any
        ([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.1], "youden", 0.9),  # J = 0.5 at 0.9 and at 0.7
        ([1, 1, 0], [0.9, 0.1, 0.0], "sensitivity_0.5", 0.9),
        ([1, 1, 0], [0.9, 0.1, 0.0], "sensitivity_0.51", 0.1),
        ([1] * 9 + [1, 0], [0.9] * 9 + [0.1, 0.5], "sensitivity_0.90", 0.9),  # 9/10 reaches 0.90 exactly
        ([1, 1], [0.1, 0.2], "youden", None),
        ([0, 0], [0.1, 0.2], "f1", None),
        ([], [], "f1", None),
    ],
)
def test_thresholds_of_small_cases(
    labels: list[int], probabilities: list[float], rule: str, expected: float | None
) -> None:
    """Small cases are easy to verify."""
    assert choose_threshold(labels, probabilities, rule) == expected


def test_a_float32_threshold_makes_its_own_image_positive() -> None:
    """The threshold is exactly one of the probabilities, so >= holds in float32 and in float64."""
    probabilities = np.array([0.1, 0.3, 0.7], dtype=np.float32)
    threshold = choose_threshold([0, 1, 1], probabilities, "youden")
    assert threshold is not None
    for values in (probabilities, probabilities.astype(np.float64)):
        assert confusion([0, 1, 1], values, threshold) == Confusion(tp=2, fp=0, tn=1, fn=0)


@given(rows, st.integers(0, 7))
def test_counts_and_rates_are_scikit_learns(given_rows: list[tuple[int, int]], seventh: int) -> None:
    """Counts, sensitivity, PPV and F1 agree; a rate with denominator 0 is None, not 0."""
    labels, probabilities = columns(given_rows)
    found = confusion(labels, probabilities, seventh / 7)
    predicted_positive = probabilities >= seventh / 7
    matrix = confusion_matrix(labels, predicted_positive, labels=[0, 1])
    assert [[found.tn, found.fp], [found.fn, found.tp]] == matrix.tolist()
    for value, metric in ((found.sensitivity, recall_score), (found.ppv, precision_score), (found.f1, f1_score)):
        expected = metric(labels, predicted_positive, zero_division=np.nan)
        assert value == pytest.approx(expected, abs=1e-12) if not math.isnan(expected) else value is None
    mirrored = confusion(1 - labels, -probabilities, math.nextafter(-seventh / 7, math.inf))
    assert (found.specificity, found.npv, found.accuracy) == (mirrored.sensitivity, mirrored.ppv, mirrored.accuracy)


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 4), min_size=1))
def test_rates_of_arrays_are_those_of_each_confusion(counts: list[tuple[int, int, int, int]]) -> None:
    """Every rate agrees with the property of the same name; NaN stands for None."""
    found = rates(*np.transpose(counts))
    assert set(found) == {name for name, value in vars(Confusion).items() if isinstance(value, property)}
    for row, entry in enumerate(counts):
        for name, values in found.items():
            expected = getattr(Confusion(*entry), name)
            np.testing.assert_equal(values[row], math.nan if expected is None else expected)


@pytest.mark.parametrize(
    "rule", ["", "Youden", "sensitivity_0", "sensitivity_1.1", "sensitivity_nan", "sensitivity_", "0.5"]
)
def test_unknown_rules_are_refused(rule: str) -> None:
    """The message lists the known rules."""
    with pytest.raises(ConfigError, match=r"unknown rule .*; expected youden, f1 or sensitivity_T"):
        choose_threshold([0, 1], [0.0, 1.0], rule)


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([0, 1], [0.1], r"labels \(2,\) and probabilities \(1,\)"),
        ([[0, 1]], [[0.1, 0.2]], r"expected \(N,\) for both"),
        ([0, 2], [0.1, 0.2], "other than 0 and 1"),
        ([0, math.nan], [0.1, 0.2], "other than 0 and 1"),
        ([0, 1, 1], [0.1, math.nan, math.inf], "2 probabilities are NaN or infinite; the first is in row 1"),
    ],
)
def test_invalid_labels_or_probabilities_are_refused(labels: object, probabilities: object, message: str) -> None:
    """Both functions check the same things."""
    with pytest.raises(ValueError, match=message):
        choose_threshold(labels, probabilities, "f1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        confusion(labels, probabilities, 0.5)  # type: ignore[arg-type]


def test_a_threshold_that_is_nan_is_refused() -> None:
    """No probability is at least NaN, so every image would silently be negative."""
    with pytest.raises(ValueError, match="threshold is NaN"):
        confusion([0, 1], [0.0, 1.0], math.nan)
