"""Tests of the training statistics: exact where float32 sums drift, and safe for constant columns."""

from __future__ import annotations

import numpy as np
import pytest

from cxrfeat.errors import FeaturesError
from head_training.features.input_statistics import measure_inputs


def test_the_training_set_becomes_standard() -> None:
    """After the inputs are made, each embedding column has mean 0 and deviation 1, covariates their imputed means."""
    random = np.random.default_rng(0)
    rows = (random.normal(size=(9000, 5)) * [1, 10, 0.1, 1, 1] + [0, 1000, -5, 50, 0.5]).astype(np.float32)
    rows[::2, 3] = np.nan
    raw = rows.copy()
    inputs = measure_inputs(rows, ("age", "sex"), standardise=True)
    inputs.apply(rows)
    np.testing.assert_allclose(rows[:, :3].mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(rows[:, :3].std(0), 1, atol=1e-3)
    assert inputs.imputed["age"] == pytest.approx(np.nanmean(raw[:, 3].astype(float)))
    assert inputs.imputed["sex"] == pytest.approx(raw[:, 4].astype(float).mean())


def test_sums_are_double() -> None:
    """A small spread on a large mean survives a hundred thousand rows."""
    rows = np.full((100_000, 1), 1000, dtype=np.float32)
    rows[::2] += 1
    inputs = measure_inputs(rows, (), standardise=True)
    np.testing.assert_allclose([inputs.mean[0], inputs.scale[0]], [1000.5, 0.5], rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e6])
def test_a_constant_column_is_left_at_scale_one(value: float) -> None:
    """A dead feature becomes 0, not a division by zero nor blown-up rounding."""
    rows = np.full((5000, 2), value, dtype=np.float32)
    inputs = measure_inputs(rows, (), standardise=True)
    np.testing.assert_array_equal(inputs.scale, [1, 1])
    inputs.apply(rows)
    np.testing.assert_allclose(rows, 0, atol=1e-6 * abs(value))


def test_without_standardisation_the_embedding_stays() -> None:
    """As in 2018: only age is scaled."""
    rows = np.array([[3, 4, 50], [5, 6, np.nan]], dtype=np.float32)
    measure_inputs(rows, ("age",), standardise=False).apply(rows)
    np.testing.assert_allclose(rows, [[3, 4, 0.5], [5, 6, 0.5]])


def test_a_covariate_without_values_is_refused() -> None:
    """No value can be imputed; the error names the option that helps."""
    with pytest.raises(FeaturesError, match="none of the 2 training rows has sex; train --without sex"):
        measure_inputs(np.array([[1, np.nan], [2, np.nan]], dtype=np.float32), ("sex",), standardise=True)
