"""Convert Arrow columns of embeddings to NumPy matrices without creating Python objects."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cxrfeat.errors import VectorsError
from cxrfeat.io.schema import Reason


def is_vectors(kind: pa.DataType) -> bool:
    """Return True for list, large_list, fixed_size_list and fixed_shape_tensor types of floats."""
    if isinstance(kind, pa.FixedShapeTensorType):
        kind = kind.storage_type
    nested = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(nested and pa.types.is_floating(kind.value_type))


def to_matrix(vectors: pa.Array, dim: int) -> NDArray[np.float32]:
    """Return N lists of ``dim`` numbers as an (N, dim) float32 matrix; float32 input is not copied.

    Raises:
        VectorsError: the type is not a list of floats, a list is null or has another length, or a number is NaN, null
            or infinite; ``rows`` gives the invalid rows.

    Example:
        >>> to_matrix(pa.array([[1, 2, 3], [4, 5, 6]], pa.list_(pa.float32())), 3)
        array([[1., 2., 3.],
               [4., 5., 6.]], dtype=float32)
    """
    if not is_vectors(vectors.type):
        raise VectorsError(Reason.WRONG_TYPE, f"embeddings are {vectors.type}; expected lists of floats")
    if isinstance(vectors, pa.ExtensionArray):
        vectors = vectors.storage
    lengths = pc.fill_null(pc.list_value_length(vectors), 0).to_numpy(zero_copy_only=False)  # (N,)
    wrong = np.flatnonzero(lengths != dim)
    if len(wrong):
        raise VectorsError(
            Reason.WRONG_LENGTH,
            f"{len(wrong)} embeddings have the wrong length, for example {lengths[wrong[0]]}; expected {dim}",
            wrong.tolist(),
        )
    values = vectors.flatten()  # (N * dim,)
    numbers = values.to_numpy(zero_copy_only=not values.null_count)
    with np.errstate(over="ignore"):  # a float64 outside the range of float32 becomes infinity and is found below
        matrix: NDArray[np.float32] = numbers.astype(np.float32, copy=False).reshape(-1, dim)
    with np.errstate(over="ignore", invalid="ignore"):
        suspicious = not np.isfinite(matrix.sum())  # a finite sum implies finite terms, at a lower cost
    if suspicious:
        invalid = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
        if len(invalid):
            message = f"{len(invalid)} embeddings contain NaN, null or infinity"
            raise VectorsError(Reason.NOT_FINITE, message, invalid.tolist())
    return matrix
