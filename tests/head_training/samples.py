"""Small embeddings on disk in the layout of the extraction, with a known best possible head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cxrfeat.io.schema import EMBEDDINGS
from cxrfeat.labels.findings import FINDINGS, from_multi_hot

EXTRACTOR = "fake:0:fake"
DIM = 6

Floats = NDArray[np.float32]


def table(
    embeddings: Floats,
    labels: Floats,
    *,
    ages: Sequence[float | None] | None = None,
    sexes: Sequence[str | None] | None = None,
) -> pa.Table:
    """Make rows of the embeddings table, one per patient: of ten, seven are train, one is val, two are test."""
    count = len(embeddings)
    splits = [("val" if n % 10 == 7 else "test" if n % 10 > 7 else "train") for n in range(count)]
    columns = {
        "image_index": [f"{n:06}.png" for n in range(count)],
        "image_path": [f"a/{n:06}.png" for n in range(count)],
        "patient_id": [str(n) for n in range(count)],
        "age_years": ages if ages is not None else [20.0 + n % 60 for n in range(count)],
        "sex": sexes if sexes is not None else ["MF"[n % 2] for n in range(count)],
        "findings": from_multi_hot(labels),
        "split": splits,
        "augmentation": ["none"] * count,
        "embedding": list(embeddings),
        "extractor": [EXTRACTOR] * count,
    }
    fields = [field for field in EMBEDDINGS if field.name not in ("round", "status")]
    return pa.table({f.name: pa.array(columns.get(f.name, [None] * count), f.type) for f in fields})


def random_table(count: int = 60, *, dim: int = DIM, seed: int = 0) -> pa.Table:
    """Make rows with random embeddings and labels."""
    random = np.random.default_rng(seed)
    embeddings = random.normal(size=(count, dim)).astype(np.float32)
    return table(embeddings, (random.uniform(size=(count, len(FINDINGS))) < 0.4).astype(np.float32))


def write(rows: pa.Table, folder: Path, *, files: int = 1, **options: object) -> Path:
    """Write rows as ``round=N/status=ok`` files of about the same size and return the folder."""
    step = -(-len(rows) // files)
    for number in range(files):
        path = folder / f"round={number}" / "status=ok" / "part-0.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(rows.slice(number * step, step), path, **options)
    return folder


def change(rows: pa.Table, column: str, row: int, value: object) -> pa.Table:
    """Return the rows with one value changed."""
    field = rows.schema.field(column)
    values = rows[column].to_pylist()
    values[row] = value
    return rows.set_column(rows.schema.get_field_index(column), field, pa.array(values, field.type))


def two_gaussians(count: int, *, dim: int = 16, distance: float = 1.5, seed: int = 0) -> pa.Table:
    """Make rows in which each finding moves the embedding by ``distance`` standard deviations along its own axis.

    The best possible score is the coordinate itself, and its AUROC is Φ(distance / √2).
    """
    random = np.random.default_rng(seed)
    labels = (random.uniform(size=(count, len(FINDINGS))) < 0.3).astype(np.float32)
    embeddings = random.normal(size=(count, dim)).astype(np.float32)
    embeddings[:, : len(FINDINGS)] += distance * labels
    mixing, _ = np.linalg.qr(random.normal(size=(dim, dim)))
    return table((embeddings @ mixing * 3 + 5).astype(np.float32), labels)
