"""Tests of the inputs: training statistics applied in place, missing values imputed and counted."""

from __future__ import annotations

import numpy as np
import pytest

from cxrfeat.head.inputs import Inputs

MEAN, SCALE = np.array([1.0, 2.0], dtype=np.float32), np.array([2.0, 0.5], dtype=np.float32)


@pytest.mark.parametrize(
    ("imputed", "row", "expected", "counts"),
    [
        ({}, [5, 3], [2, 2], {}),
        ({"age": 46.0, "sex": 0.5}, [5, 3, 80, 1], [2, 2, 0.8, 1], {"age": 0, "sex": 0}),
        ({"age": 46.0, "sex": 0.5}, [1, 2, np.nan, np.nan], [0, 0, 0.46, 0.5], {"age": 1, "sex": 1}),
        ({"sex": 0.25}, [1, 2, np.nan], [0, 0, 0.25], {"sex": 1}),
    ],
)
def test_a_row_becomes_inputs(
    imputed: dict[str, float], row: list[float], expected: list[float], counts: dict[str, int]
) -> None:
    """The embedding is standardised, age divided by 100, sex kept, and missing values are imputed and counted."""
    rows = np.array([row], dtype=np.float32)
    assert Inputs(MEAN, SCALE, imputed).apply(rows) == counts
    np.testing.assert_allclose(rows, [expected], rtol=1e-6)


def test_blocks_do_not_change_the_rows() -> None:
    """A row of a long matrix gets the same values as alone, also at the boundary of two blocks."""
    inputs = Inputs(MEAN, SCALE, {"age": 50.0})
    rows = np.random.default_rng(0).normal(size=(9000, 3)).astype(np.float32)
    alone = rows[4095:4098].copy()
    inputs.apply(rows)
    inputs.apply(alone)
    np.testing.assert_array_equal(rows[4095:4098], alone)


def test_rows_of_another_width_are_refused() -> None:
    """The message gives both shapes."""
    with pytest.raises(ValueError, match=r"\(1, 3\); expected \(N, 2\)"):
        Inputs(MEAN, SCALE, {}).apply(np.zeros((1, 3), dtype=np.float32))
