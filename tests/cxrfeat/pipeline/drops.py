"""Drops for tests: valid and invalid Parquet files with embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cxrfeat.io.schema import EMBEDDINGS

DIM = 4
EXTRACTOR = "fake:0:fake"

_COLUMNS = ("image_index", "patient_id", "age_years", "sex", "augmentation", "extractor")


def rows(count: int, *, seed: int = 0, dim: int = DIM, extractor: str = EXTRACTOR) -> pa.Table:
    """Make embeddings with the schema of the extraction; every third age and fourth sex is missing."""
    random = np.random.default_rng(seed)
    embeddings = random.normal(size=(count, dim)).astype(np.float32)
    columns: Mapping[str, Sequence[Any]] = {
        "image_index": [f"{seed:04}_{number:05}.png" for number in range(count)],
        "patient_id": [str(number // 2) for number in range(count)],
        "age_years": [None if number % 3 == 0 else float(random.uniform(0, 95)) for number in range(count)],
        "sex": [None if number % 4 == 0 else "MF"[number % 2] for number in range(count)],
        "augmentation": ["none"] * count,
        "extractor": [extractor] * count,
    }
    arrays = {name: pa.array(columns[name], EMBEDDINGS.field(name).type) for name in _COLUMNS}
    offsets = pa.array(np.arange(0, (count + 1) * dim, dim, dtype=np.int32))
    return pa.table({**arrays, "embedding": pa.ListArray.from_arrays(offsets, pa.array(embeddings.ravel()))})


def write(path: Path, table: pa.Table, *, row_group_size: int = 10) -> Path:
    """Write a drop, uncompressed, so that a damaged byte stays where it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=row_group_size, compression="none", write_page_checksum=True)
    return path


def replace(table: pa.Table, name: str, column: pa.Array | Sequence[Any]) -> pa.Table:
    """Replace a column, or add it."""
    column = pa.array(column) if isinstance(column, list) else column
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, column)
    return table.append_column(name, column)


def with_number(table: pa.Table, row: int, value: float) -> pa.Table:
    """Change one number of one embedding."""
    vectors = table["embedding"].to_pylist()
    vectors[row] = [value, *vectors[row][1:]]
    return replace(table, "embedding", pa.array(vectors, table["embedding"].type))


def damage_page(path: Path, row_group: int, column: str = "embedding") -> None:
    """Flip bits in a page: the footer remains valid, the page does not."""
    footer = pq.read_metadata(path)
    group = footer.row_group(row_group)
    chunk = next(group.column(i) for i in range(group.num_columns) if group.column(i).path_in_schema.startswith(column))
    data = bytearray(path.read_bytes())
    start = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
    data[start + chunk.total_compressed_size - 1] ^= 0xFF  # the chunk's last byte is a page's
    path.write_bytes(bytes(data))


def truncate(path: Path) -> None:
    """Remove the last third of the file, including the footer."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def break_footer(path: Path) -> None:
    """Keep the file's length and magic numbers, and overwrite its footer."""
    data = path.read_bytes()
    path.write_bytes(data[:-200] + b"\xff" * 192 + data[-8:])


UNSOUND: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (truncate, "not-parquet"),
    "bad-footer": (break_footer, "not-parquet"),
    "empty": (lambda path: path.write_bytes(b""), "empty"),
    "text": (lambda path: path.write_text("image_index,embedding\n"), "not-parquet"),
    "zero-rows": (lambda path: write(path, rows(0)), "no-rows"),
    "no-extractor": (lambda path: write(path, rows(20).drop_columns(["extractor"])), "missing-column"),
    "wrong-type": (lambda path: write(path, replace(rows(20), "embedding", ["x"] * 20)), "wrong-type"),
    "other-extractor": (lambda path: write(path, rows(20, extractor="other:1:x")), "other-extractor"),
    "mixed": (
        lambda path: write(path, pa.concat_tables([rows(15), rows(5, extractor="other:1:x")])),
        "mixed-extractors",
    ),
}
"""By name: a function that makes a valid drop of 20 rows invalid as a whole, and the expected reason."""
