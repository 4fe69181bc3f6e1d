"""Columns of embeddings, and of sexes, as Arrow holds them → numbers, without a Python object for any of them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cxrfeat.errors import VectorsError
from cxrfeat.io.schema import Reason


def is_vectors(kind: pa.DataType) -> bool:
    """Say whether a type is a list of any kind of float32 or float64."""
    nested = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(nested and kind.value_type in (pa.float32(), pa.float64()))


def to_matrix(vectors: pa.Array, dim: int) -> NDArray[np.float32]:
    """View N lists of ``dim`` numbers as (N, dim) float32: without a copy unless they are float64.

    Raises:
        VectorsError: another type, null or lists of another length, and NaN, null or infinity among the numbers; each
            with its rows.

    Example:
        >>> to_matrix(pa.array([[1, 2, 3], [4, 5, 6]], pa.list_(pa.float32())), 3)
        array([[1., 2., 3.],
               [4., 5., 6.]], dtype=float32)
    """
    if not is_vectors(vectors.type):
        raise VectorsError(Reason.WRONG_TYPE, f"embeddings are {vectors.type}; expected lists of float32 or float64")
    lengths = pc.fill_null(pc.list_value_length(vectors), 0).to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(lengths != dim)
    if len(wrong):
        raise VectorsError(
            Reason.WRONG_LENGTH,
            f"{len(wrong)} embeddings have another length than {dim}, such as {lengths[wrong[0]]}",
            wrong.tolist(),
        )
    values = vectors.flatten()
    numbers = values.to_numpy(zero_copy_only=not values.null_count)
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinity, and is found below
        matrix: NDArray[np.float32] = numbers.astype(np.float32, copy=False).reshape(-1, dim)
    with np.errstate(over="ignore", invalid="ignore"):
        suspicious = not np.isfinite(matrix.sum())  # a finite sum has finite terms, and is cheaper than looking at each
    if suspicious:
        odd = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
        if len(odd):
            raise VectorsError(Reason.NOT_FINITE, f"{len(odd)} embeddings hold NaN, null or infinity", odd.tolist())
    return matrix
