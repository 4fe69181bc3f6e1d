"""Rows of embeddings → rows of predictions, wherever they come from: a drop's row group, or films just embedded."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cxrfeat.head.inputs import AGE, SEX, encode_sexes
from cxrfeat.head.predictor import Predictor
from cxrfeat.io.arrow import to_matrix
from cxrfeat.io.schema import Augmentation, Status, scored_schema
from cxrfeat.labels.columns import MAX_AGE_YEARS
from cxrfeat.labels.findings import FINDINGS

SCORED = scored_schema(FINDINGS)
"""Schema of the rows that workers return."""


def score_rows(batch: pa.RecordBatch, place: Mapping[str, pa.Array], predictor: Predictor) -> pa.RecordBatch:
    """Score N rows with the columns of embeddings; all but the vector may be missing.

    Args:
        batch: ``embedding`` and what there is of ``image_index, patient_id, augmentation, extractor, age_years, sex``.
        place: (N,) columns that say where the rows come from: ``drop_file``, ``row_group``.
        predictor: the head.

    Returns:
        :func:`cxrfeat.io.schema.scored_schema`.

    Raises:
        VectorsError: embeddings that are no matrix of finite numbers.
    """
    count = len(batch)
    embeddings = to_matrix(batch.column("embedding"), predictor.dim)
    predictions = predictor.predict(embeddings, {AGE: _ages(batch), SEX: encode_sexes(_text(batch, "sex"))})
    columns = {
        **{name: _text(batch, name) for name in ("image_index", "patient_id", "extractor")},
        "augmentation": pc.fill_null(_text(batch, "augmentation"), Augmentation.NONE.value),
        **place,
        "head": repeat("head", predictor.fingerprint, count),
        **predictor.to_columns(predictions),
        "rows": repeat("rows", 1, count),
        "status": repeat("status", Status.OK.value, count),
    }
    return _to_batch(columns, count)


def quarantine(values: Mapping[str, object]) -> pa.RecordBatch:
    """Return one row of :func:`cxrfeat.io.schema.scored_schema` in quarantine, from those of its columns that are known."""
    row = {**values, "status": Status.QUARANTINED.value}
    return _to_batch({name: repeat(name, value, 1) for name, value in row.items()}, 1)


def score_images(batch: pa.RecordBatch, predictor: Predictor) -> list[pa.RecordBatch]:
    """Score films that were just embedded and joined with their metadata: each is a drop of its own.

    Args:
        batch: of :data:`cxrfeat.io.schema.EMBEDDINGS`, those in quarantine too, which stay there.
        predictor: the head.

    Raises:
        VectorsError: as :func:`score_rows`.
    """
    ok = pc.equal(batch.column("status"), Status.OK.value)
    films, refused = batch.filter(ok), batch.filter(pc.invert(ok))
    kept = ("image_index", "patient_id", "augmentation", "extractor", "reason", "message")
    quarantined = {
        **{name: refused.column(name) for name in kept},
        "drop_file": refused.column("image_path"),
        "rows": repeat("rows", 1, len(refused)),
        "status": refused.column("status"),
    }
    scored = score_rows(films, {"drop_file": films.column("image_path")}, predictor)
    return [part for part in (scored, _to_batch(quarantined, len(refused))) if len(part)]


def repeat(name: str, value: object, count: int) -> pa.Array:
    """Return a column of :func:`cxrfeat.io.schema.scored_schema` that holds one value."""
    return pa.repeat(pa.scalar(value, SCORED.field(name).type), count)


def _to_batch(columns: Mapping[str, pa.Array], count: int) -> pa.RecordBatch:
    """Put columns in the order of the schema; those that are not given are null."""
    arrays = [columns[name] if name in columns else pa.nulls(count, SCORED.field(name).type) for name in SCORED.names]
    return pa.RecordBatch.from_arrays(arrays, schema=SCORED)


def _text(batch: pa.RecordBatch, name: str) -> pa.Array:
    if name not in batch.schema.names:
        return pa.nulls(len(batch), pa.string())
    return batch.column(name).cast(pa.string())


def _ages(batch: pa.RecordBatch) -> NDArray[np.float32]:
    """Return ages in years; missing ones, and those that no human has, are NaN, to be imputed."""
    if "age_years" not in batch.schema.names:
        return np.full(len(batch), np.nan, dtype=np.float32)
    ages = batch.column("age_years").cast(pa.float64()).to_numpy(zero_copy_only=False)
    return np.where((ages >= 0) & (ages <= MAX_AGE_YEARS), ages, np.nan).astype(np.float32)
