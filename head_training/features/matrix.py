"""Parquet embeddings → one contiguous float32 matrix, without a Python object for any number.

Row groups are read in small batches straight into the matrix, which is made once in its final size: the peak is the
matrix and a few batches. The order of rows does not depend on how the files are cut.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cxrfeat.errors import FeaturesError, VectorsError
from cxrfeat.head.inputs import SEX, encode_sexes
from cxrfeat.io.arrow import to_matrix
from cxrfeat.io.schema import Split
from cxrfeat.labels.findings import FINDINGS
from head_training.features.index import NAMED, FeatureIndex, ParquetFile, read_index

_BATCH_ROWS = 2048
"""16 MB of 2048-d vectors: big enough for full speed, small beside the matrix."""

_MAX_THREADS = 8
_READ_BUFFER = 8 << 20


@dataclass(frozen=True)
class Features:
    """Labelled embeddings in memory, in order of split, image and augmentation.

    Attributes:
        matrix: (N, D + covariates) float32: embedding, then age in years and sex (M = 1, F = 0) as far as they are in
            use, NaN = missing.
        labels: (N, 14) float32 of 0 and 1.
        index: the other columns, and what was left out.
    """

    matrix: NDArray[np.float32]
    labels: NDArray[np.float32]
    index: FeatureIndex

    def rows(self, split: Split) -> slice:
        """Return where a split's rows are: one block."""
        return self.index.rows(split)


@dataclass(frozen=True)
class _RowGroup:
    file: ParquetFile
    number: int
    first_row: int  # in its file
    places: NDArray[np.int64]  # rows of the matrix, -1 = left out


def load_features(features: str, covariates: tuple[str, ...]) -> Features:
    """Read all that can be trained on.

    Args:
        features: folder or URI of Parquet files, see :func:`head_training.features.index.read_index`.
        covariates: which of ``age`` and ``sex`` become columns.

    Raises:
        FeaturesError: see there; also vectors of different lengths, and NaN or infinity, with their rows.
    """
    index = read_index(features)
    groups = [group for group in _row_groups(index) if (group.places >= 0).any()]
    dim = _first_length(groups[0])
    matrix = np.empty((len(index.table), dim + len(covariates)), dtype=np.float32)
    threads = min(os.cpu_count() or 1, _MAX_THREADS)
    with ThreadPoolExecutor(threads, thread_name_prefix="load") as pool:
        for _ in pool.map(lambda group: _read_into(matrix[:, :dim], group), groups):
            pass
    for column, name in enumerate(covariates, start=dim):
        matrix[:, column] = _extra(index.table, name)
    return Features(matrix, _labels(index.table), index)


def _row_groups(index: FeatureIndex) -> Iterator[_RowGroup]:
    start = 0
    for file in index.files:
        first_row = 0
        for number in range(file.footer.num_row_groups):
            rows = file.footer.row_group(number).num_rows
            yield _RowGroup(file, number, first_row, index.places[start : start + rows])
            first_row, start = first_row + rows, start + rows


def _batches(group: _RowGroup) -> Iterator[tuple[int, pa.Array, NDArray[np.int64]]]:
    """Yield a row group's embeddings that are kept: first row in the file, vectors, rows of the matrix."""
    start = 0
    with group.file.filesystem.open_input_file(group.file.path) as stream:
        # A buffered stream: otherwise a row group of the whole data set would first be in memory as a whole.
        parquet = pq.ParquetFile(stream, metadata=group.file.footer, buffer_size=_READ_BUFFER, pre_buffer=False)
        for batch in parquet.iter_batches(_BATCH_ROWS, row_groups=[group.number], columns=["embedding"]):
            places = group.places[start : start + batch.num_rows]
            yield group.first_row + start, batch.column(0), places
            start += batch.num_rows


def _first_length(group: _RowGroup) -> int:
    """Return the length of the first vector that is kept: what all others are held to."""
    for first_row, vectors, places in _batches(group):
        kept = np.flatnonzero(places >= 0)
        if len(kept):
            vector = vectors[int(kept[0])]
            if not vector.is_valid or not len(vector):
                raise FeaturesError(f"{group.file.name}, row {first_row + kept[0]}: the embedding is empty")
            return len(vector)
    raise FeaturesError(f"{group.file.name} ends before the row that its footer promises")


def _read_into(matrix: NDArray[np.float32], group: _RowGroup) -> None:
    for first_row, vectors, places in _batches(group):
        kept = places >= 0
        numbers = first_row + np.flatnonzero(kept)
        block = _to_block(vectors if kept.all() else vectors.filter(pa.array(kept)), matrix.shape[1], group, numbers)
        matrix[places[kept]] = block


def _to_block(vectors: pa.Array, dim: int, group: _RowGroup, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return N Arrow lists as an (N, dim) matrix; ``numbers`` are their rows in the file, for an error to name."""
    try:
        return to_matrix(vectors, dim)
    except VectorsError as error:
        where = f"; rows {numbers[error.rows[:NAMED]].tolist()}" if error.rows else ""
        raise FeaturesError(f"{group.file.name}: {error}{where}") from error


def _extra(table: pa.Table, name: str) -> NDArray[np.float32]:
    """Return age in years, or sex as M = 1 and F = 0; NaN where it is missing."""
    if name == SEX:
        return encode_sexes(table["sex"].combine_chunks())
    ages: NDArray[np.float32] = table["age_years"].to_numpy()
    return ages


def _labels(table: pa.Table) -> NDArray[np.float32]:
    findings = table["findings"].combine_chunks()
    labels = np.zeros((len(findings), len(FINDINGS)), dtype=np.float32)
    rows = pc.list_parent_indices(findings).to_numpy()
    labels[rows, pc.index_in(pc.list_flatten(findings), pa.array(FINDINGS)).to_numpy()] = 1.0
    return labels
