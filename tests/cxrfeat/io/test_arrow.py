"""Conversion of Arrow columns of embeddings to matrices, and errors for invalid columns."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cxrfeat.errors import VectorsError
from cxrfeat.head.inputs import encode_sexes
from cxrfeat.io.arrow import to_matrix
from cxrfeat.io.schema import Reason

ROWS = [[1.0, -2.0, 0.5], [0.0, 4.0, 8.0]]
FLOAT32, FLOAT64 = pa.float32(), pa.float64()


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(FLOAT32),
        pa.large_list(FLOAT32),
        pa.list_(FLOAT32, 3),
        pa.list_(FLOAT64),
        pa.large_list(FLOAT64),
        pa.list_(FLOAT64, 3),
    ],
    ids=str,
)
def test_every_list_of_floats_is_the_same_matrix(kind: pa.DataType) -> None:
    """List, large_list and fixed_size_list of float32 and float64; a slice is seen as a slice."""
    matrix = to_matrix(pa.array([[9.0, 9.0, 9.0], *ROWS], kind).slice(1), 3)
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, ROWS)


def test_float32_is_not_copied() -> None:
    """The matrix shares its memory with the Arrow array."""
    vectors = pa.array(ROWS, pa.list_(FLOAT32))
    assert to_matrix(vectors, 3).ctypes.data == vectors.values.buffers()[1].address


@given(arrays(np.float32, st.tuples(st.integers(0, 5), st.just(4)), elements=st.floats(width=32)))
def test_any_numbers_come_back_or_are_refused_with_their_rows(matrix: np.ndarray) -> None:
    """Finite matrices survive bit for bit, huge ones too; with NaN or infinity the error names exactly their rows."""
    offsets = pa.array(np.arange(0, 4 * len(matrix) + 1, 4, dtype=np.int32))
    vectors = pa.ListArray.from_arrays(offsets, pa.array(matrix.ravel()))
    odd = np.flatnonzero(~np.isfinite(matrix).all(axis=1)).tolist()
    if not odd:
        assert np.array_equal(to_matrix(vectors, 4), matrix)
        return
    with pytest.raises(VectorsError, match=f"{len(odd)} embeddings contain NaN, null or infinity") as caught:
        to_matrix(vectors, 4)
    assert (caught.value.reason, caught.value.rows) == (Reason.NOT_FINITE, odd)


@pytest.mark.parametrize(
    ("values", "kind", "reason", "rows", "said"),
    [
        ([[1, 2, 3]], pa.list_(pa.int32()), Reason.WRONG_TYPE, [], r"list<.*int32>; expected lists of floats"),
        ([1.0], FLOAT32, Reason.WRONG_TYPE, [], "are float"),
        (
            [*ROWS, [1.0]],
            pa.list_(FLOAT32),
            Reason.WRONG_LENGTH,
            [2],
            "1 embeddings have the wrong length, for example 1; expected 3",
        ),
        ([None, *ROWS, []], pa.list_(FLOAT32), Reason.WRONG_LENGTH, [0, 3], "2 embeddings .* example 0"),
        ([*ROWS, None], pa.list_(FLOAT32, 3), Reason.WRONG_LENGTH, [2], "example 0"),
        ([[1.0, None, 2.0], *ROWS], pa.list_(FLOAT32), Reason.NOT_FINITE, [0], "1 embeddings contain"),
        ([*ROWS, [1e300, 0.0, 0.0]], pa.list_(FLOAT64), Reason.NOT_FINITE, [2], "1 embeddings contain"),
    ],
)
def test_invalid_columns_are_rejected(
    values: list[object], kind: pa.DataType, reason: Reason, rows: list[int], said: str
) -> None:
    """Type, length, null and overflow, each with its reason and rows."""
    with pytest.raises(VectorsError, match=said) as caught:
        to_matrix(pa.array(values, kind), 3)
    assert (caught.value.reason, list(caught.value.rows)) == (reason, rows)


def test_a_sum_beyond_float32_is_no_error() -> None:
    """Finite numbers whose sum overflows are finite numbers."""
    huge = [[3e38, 3e38, 3e38]]
    np.testing.assert_array_equal(to_matrix(pa.array(huge, pa.list_(FLOAT32)), 3), np.array(huge, np.float32))


def test_sexes_are_numbers_or_nan() -> None:
    """Words are understood as in metadata tables; every other value is missing."""
    found = encode_sexes(pa.array(["M", "F", "male", " FEMALE", None, "", "X", "1"]))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [1, 0, 1, 0, *[np.nan] * 4])
    assert encode_sexes(pa.array([], pa.string())).shape == (0,)
