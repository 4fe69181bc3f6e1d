"""Loading of Parquet embeddings into one contiguous float32 matrix, without a Python object per number.

The matrix is allocated once in its final size and filled in small batches, so peak memory is the matrix plus a few
batches. The order of rows does not depend on their distribution over files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cxrfeat.errors import FeaturesError, VectorsError
from cxrfeat.head.inputs import SEX, encode_sexes
from cxrfeat.io.arrow import to_matrix
from cxrfeat.io.schema import Split
from cxrfeat.labels.label_set import LabelSet
from cxrfeat.labels.label_sets import NIH14
from head_training.features.index import MAX_NAMED, FeatureIndex, ParquetFile, read_index

_BATCH_ROWS = 2048
"""16 MB of 2048-d vectors: large enough for full speed, small compared with the matrix."""

_MAX_THREADS = 8
_READ_BUFFER = 8 << 20


@dataclass(frozen=True)
class Features:
    """Labelled embeddings in memory, sorted by split, image and augmentation.

    Attributes:
        matrix: (N, D + covariates) float32: the embedding, then the covariates in use, which are age in years and sex
            (M = 1, F = 0); NaN marks a missing covariate.
        labels: (N, F) float32: 1, 0, or NaN where unknown.
        index: the other columns, and the number of rows left out.
    """

    matrix: NDArray[np.float32]
    labels: NDArray[np.float32]
    index: FeatureIndex

    def rows(self, split: Split) -> slice:
        """Return the slice of a split's rows."""
        return self.index.rows(split)


@dataclass(frozen=True)
class _RowGroup:
    """Row group of a file, and the place of its R rows in the matrix."""

    file: ParquetFile
    number: int
    first_row: int  # row of the file at which the group begins
    matrix_rows: NDArray[np.int64]  # (R,) row of the matrix, -1 if left out


def load_features(
    features: str,
    covariates: tuple[str, ...],
    label_set: LabelSet = NIH14,
    *,
    drop_empty: bool = False,
    as_written: bool = False,
) -> Features:
    """Load all labelled embeddings with their labels into memory.

    Args:
        features: folder or URI of Parquet files, see :func:`head_training.features.index.read_index`.
        covariates: covariates to add as columns, from ``age`` and ``sex``.
        label_set: labels to read.
        drop_empty: leave out labels without a positive in the training split, instead of raising an error.
        as_written: accept patients whose names differ in blanks or leading zeros alone.

    Raises:
        ConfigError: the folder does not exist.
        FeaturesError: same conditions as for :func:`head_training.features.index.read_index`, or vectors of different
            lengths, or with NaN or infinity; the message names their rows.
    """
    index = read_index(features, label_set, drop_empty=drop_empty, as_written=as_written)
    groups = [group for group in _row_groups(index) if (group.matrix_rows >= 0).any()]
    dim = _embedding_size(groups[0])
    matrix = np.empty((len(index.table), dim + len(covariates)), dtype=np.float32)  # (N, D + covariates)
    threads = min(os.cpu_count() or 1, _MAX_THREADS)
    with ThreadPoolExecutor(threads, thread_name_prefix="load") as pool:
        for _ in pool.map(lambda group: _read_into(matrix[:, :dim], group), groups):
            pass
    for column, name in enumerate(covariates, start=dim):
        matrix[:, column] = _read_covariate(index.table, name)  # (N,)
    return Features(matrix, index.labels, index)


def _row_groups(index: FeatureIndex) -> Iterator[_RowGroup]:
    """Yield the row groups of all files in the order of ``index.matrix_rows``."""
    start = 0
    for file in index.files:
        first_row = 0
        for number in range(file.footer.num_row_groups):
            rows = file.footer.row_group(number).num_rows
            yield _RowGroup(file, number, first_row, index.matrix_rows[start : start + rows])
            first_row, start = first_row + rows, start + rows


def _batches(group: _RowGroup) -> Iterator[tuple[int, pa.Array, NDArray[np.int64]]]:
    """Yield a row group in batches of B rows: first row in the file, (B,) lists, (B,) rows of the matrix."""
    start = 0  # row within the group
    with group.file.filesystem.open_input_file(group.file.path) as stream:
        # Without a buffered stream, pyarrow reads a whole row group, possibly the whole data set, into memory at once.
        parquet = pq.ParquetFile(stream, metadata=group.file.footer, buffer_size=_READ_BUFFER, pre_buffer=False)
        for batch in parquet.iter_batches(_BATCH_ROWS, row_groups=[group.number], columns=["embedding"]):
            matrix_rows = group.matrix_rows[start : start + batch.num_rows]  # (B,)
            yield group.first_row + start, batch.column(0), matrix_rows
            start += batch.num_rows


def _embedding_size(group: _RowGroup) -> int:
    """Return the length of the first vector that is not left out: the expected length of all others."""
    for first_row, vectors, matrix_rows in _batches(group):
        kept = np.flatnonzero(matrix_rows >= 0)
        if len(kept):
            vector = vectors[int(kept[0])]
            if not vector.is_valid or not len(vector):
                raise FeaturesError(f"{group.file.name}, row {first_row + kept[0]}: the embedding is empty")
            return len(vector)
    raise FeaturesError(f"{group.file.name} has fewer rows than its footer states")


def _read_into(matrix: NDArray[np.float32], group: _RowGroup) -> None:
    """Write the embeddings of a row group into their rows of the (N, D) matrix."""
    for first_row, vectors, matrix_rows in _batches(group):
        kept = matrix_rows >= 0  # (B,)
        file_rows = first_row + np.flatnonzero(kept)  # (K,), with K kept rows
        usable = vectors if kept.all() else vectors.filter(pa.array(kept))  # (K,)
        matrix[matrix_rows[kept]] = _to_block(usable, matrix.shape[1], group, file_rows)  # (K, D)


def _to_block(vectors: pa.Array, dim: int, group: _RowGroup, file_rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return K Arrow lists as a (K, D) matrix; an error names their rows in the file."""
    try:
        return to_matrix(vectors, dim)
    except VectorsError as error:
        rows = ", ".join(map(str, file_rows[error.rows[:MAX_NAMED]])) if error.rows else ""
        raise FeaturesError(f"{group.file.name}: {error}{f'; rows {rows}' if rows else ''}") from error


def _read_covariate(table: pa.Table, name: str) -> NDArray[np.float32]:
    """Return the (N,) ages in years, or sexes as M = 1 and F = 0; NaN marks a missing value."""
    if name == SEX:
        return encode_sexes(table["sex"].combine_chunks())
    ages: NDArray[np.float32] = table["age_years"].to_numpy()
    return ages
