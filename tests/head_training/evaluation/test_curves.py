"""Tests of the curves: scikit-learn's points, thinned; and the calibration error of a loop over images."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from sklearn.metrics import precision_recall_curve, roc_curve

from head_training.evaluation.curves import BINS, RESOLUTION, precision_recall_points, reliability, roc_points, to_bins

probabilities = nps.arrays(
    np.float64, st.integers(1, 60), elements=st.one_of(st.floats(0, 1), st.sampled_from([k / BINS for k in range(16)]))
)


def reference_bin(value: float) -> int:
    """Count the inner edges that are at or below a value."""
    return sum(value >= edge / BINS for edge in range(1, BINS))


@given(probabilities, st.integers(0, 1000))
def test_ece_is_that_of_a_loop_over_bins(values: np.ndarray, seed: int) -> None:
    """Mean, frequency and number of each bin, edges included, and the mean gap over images."""
    labels = np.random.default_rng(seed).integers(2, size=len(values))
    found = reliability(labels, values)
    error = 0.0
    for number in range(BINS):
        inside = [row for row, value in enumerate(values) if reference_bin(value) == number]
        assert found.images[number] == len(inside)
        if not inside:
            assert math.isnan(found.mean[number])
            assert math.isnan(found.observed[number])
            continue
        mean, observed = math.fsum(values[inside]) / len(inside), sum(labels[inside]) / len(inside)
        assert (found.mean[number], found.observed[number]) == pytest.approx((mean, observed), abs=1e-12)
        error += len(inside) / len(values) * abs(mean - observed)
    assert found.ece == pytest.approx(error, abs=1e-12)


def test_calibrated_probabilities_have_no_error() -> None:
    """A share of p positives at probability p is perfect; certain and wrong is 1."""
    values = np.repeat([0.2, 0.6], 10)
    labels = np.concatenate([np.arange(10) < 2, np.arange(10) < 6])
    assert reliability(labels, values).ece == pytest.approx(0, abs=1e-12)
    assert reliability([0, 1], [1.0, 0.0]).ece == 1


def test_a_float32_probability_falls_into_its_own_bin() -> None:
    """float32 0.2 is a little above 3/15 and float32 0.6 a little above 9/15; neither is rounded."""
    np.testing.assert_array_equal(to_bins(np.array([0, 0.2, 0.6, 1], np.float32)), [0, 3, 9, 14])


@pytest.mark.parametrize("value", [-1e-9, 1 + 1e-9, math.nan, math.inf])
def test_what_is_no_probability_is_refused(value: float) -> None:
    """With the number of them and the first."""
    with pytest.raises(ValueError, match=r"1 probabilities are outside \[0, 1\] or NaN; the first is "):
        reliability([0, 1], [0.5, value])
    with pytest.raises(ValueError, match="no image"):
        reliability([], [])


@pytest.mark.parametrize("decimals", [1, 3, 9])
def test_thinned_curves_stay_within_a_line(decimals: int) -> None:
    """Ends are kept, kept points are scikit-learn's, and every point left out has one within a cell."""
    random = np.random.default_rng(decimals)
    labels = random.uniform(size=4_000) < 0.05
    scores = (random.normal(size=4_000) + labels).round(decimals)
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    precision, recall, _ = precision_recall_curve(labels, scores)
    for whole, thinned in (
        (np.stack([fpr, tpr]), np.stack(roc_points(labels, scores))),
        (np.stack([recall, precision])[:, ::-1], np.stack(precision_recall_points(labels, scores))),
    ):
        np.testing.assert_array_equal(thinned[:, [0, -1]], whole[:, [0, -1]])
        distance = np.abs(whole[:, :, None] - thinned[:, None, :]).max(axis=0)
        assert (distance.min(axis=0) == 0).all()
        assert distance.min(axis=1).max() <= 1 / RESOLUTION


def test_thinned_curves_are_thin() -> None:
    """A ROC curve never has more points than it crosses cells, however many images there are."""
    random = np.random.default_rng(0)
    labels = random.uniform(size=50_000) < 0.3
    fpr, _ = roc_points(labels, random.normal(size=50_000) + labels)
    assert RESOLUTION < len(fpr) <= 2 * RESOLUTION + 1
