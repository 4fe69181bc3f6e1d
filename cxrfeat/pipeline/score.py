"""Turn rows of embeddings into rows of predictions, for drops and for newly embedded images."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cxrfeat.head.inputs import AGE, SEX, encode_sexes
from cxrfeat.head.predictor import Predictor
from cxrfeat.io.arrow import to_matrix
from cxrfeat.io.schema import Augmentation, Status
from cxrfeat.labels.cells import MAX_AGE_YEARS


def score_rows(batch: pa.RecordBatch, source_columns: Mapping[str, pa.Array], predictor: Predictor) -> pa.RecordBatch:
    """Score N rows of embeddings; every column except the embedding may be missing.

    Args:
        batch: ``embedding`` and any of ``image_index, patient_id, augmentation, extractor, age_years, sex``.
        source_columns: (N,) columns with the origin of the rows: ``drop_file``, ``row_group``.
        predictor: the head.

    Returns:
        Batch of :func:`cxrfeat.io.schema.scored_schema`.

    Raises:
        VectorsError: the embeddings are not a matrix of finite numbers.
    """
    count = len(batch)
    embeddings = to_matrix(batch.column("embedding"), predictor.dim)  # (N, dim)
    predictions = predictor.predict(embeddings, {AGE: _ages(batch), SEX: encode_sexes(_strings(batch, "sex"))})
    columns = {
        **{name: _strings(batch, name) for name in ("image_index", "patient_id", "extractor")},
        "augmentation": pc.fill_null(_strings(batch, "augmentation"), Augmentation.NONE.value),
        **source_columns,
        "head": repeat(predictor.schema, "head", predictor.fingerprint, count),
        **predictor.to_columns(predictions),
        "rows": repeat(predictor.schema, "rows", 1, count),
        "status": repeat(predictor.schema, "status", Status.OK.value, count),
    }
    return _to_batch(predictor.schema, columns, count)


def quarantine(schema: pa.Schema, values: Mapping[str, object]) -> pa.RecordBatch:
    """Return one quarantined row of :func:`cxrfeat.io.schema.scored_schema` with the given columns; others are null."""
    row = {**values, "status": Status.QUARANTINED.value}
    return _to_batch(schema, {name: repeat(schema, name, value, 1) for name, value in row.items()}, 1)


def score_images(batch: pa.RecordBatch, predictor: Predictor) -> list[pa.RecordBatch]:
    """Score newly embedded images joined with their metadata; ``drop_file`` is the image path.

    Args:
        batch: rows of :data:`cxrfeat.io.schema.EMBEDDINGS`; rows in quarantine remain in quarantine.
        predictor: the head.

    Raises:
        VectorsError: same conditions as for :func:`score_rows`.
    """
    ok = pc.equal(batch.column("status"), Status.OK.value)
    embedded, quarantined = batch.filter(ok), batch.filter(pc.invert(ok))
    kept = ("image_index", "patient_id", "augmentation", "extractor", "reason", "message")
    columns = {
        **{name: quarantined.column(name) for name in kept},
        "drop_file": quarantined.column("image_path"),
        "rows": repeat(predictor.schema, "rows", 1, len(quarantined)),
        "status": quarantined.column("status"),
    }
    scored = score_rows(embedded, {"drop_file": embedded.column("image_path")}, predictor)
    return [part for part in (scored, _to_batch(predictor.schema, columns, len(quarantined))) if len(part)]


def repeat(schema: pa.Schema, name: str, value: object, count: int) -> pa.Array:
    """Return a column of a schema that repeats one value."""
    return pa.repeat(pa.scalar(value, schema.field(name).type), count)


def _to_batch(schema: pa.Schema, columns: Mapping[str, pa.Array], count: int) -> pa.RecordBatch:
    """Return a batch with the columns in schema order; missing columns are null."""
    arrays = [columns[field.name] if field.name in columns else pa.nulls(count, field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _strings(batch: pa.RecordBatch, name: str) -> pa.Array:
    if name not in batch.schema.names:
        return pa.nulls(len(batch), pa.string())
    return batch.column(name).cast(pa.string())


def _ages(batch: pa.RecordBatch) -> NDArray[np.float32]:
    """Return (N,) float32 ages in years; missing and implausible ages become NaN and are imputed later."""
    if "age_years" not in batch.schema.names:
        return np.full(len(batch), np.nan, dtype=np.float32)
    ages = batch.column("age_years").cast(pa.float64()).to_numpy(zero_copy_only=False)
    return np.where((ages >= 0) & (ages <= MAX_AGE_YEARS), ages, np.nan).astype(np.float32)
