"""Turn rows of embeddings into rows of predictions, for drops and for newly embedded images."""

from __future__ import annotations

import decimal
import math
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cxrfeat.errors import VectorsError
from cxrfeat.head.inputs import AGE, SEX, encode_sexes
from cxrfeat.head.predictor import Predictor
from cxrfeat.io.arrow import to_matrix
from cxrfeat.io.schema import Augmentation, Reason, Status
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
        VectorsError: the embeddings are not a matrix of finite numbers, or a probability would not be finite.
    """
    count = len(batch)
    embeddings = to_matrix(batch.column("embedding"), predictor.dim)  # (N, dim)
    predictions = predictor.predict(embeddings, {AGE: _ages(batch), SEX: encode_sexes(_strings(batch, "sex"))})
    infinite = np.flatnonzero(~np.isfinite(predictions.probabilities).all(axis=1))
    if len(infinite):
        raise VectorsError(
            Reason.NOT_FINITE,
            f"{len(infinite)} embeddings are so far from the training data that the head overflows",
            infinite.tolist(),
        )
    columns = {
        **{name: _strings(batch, name) for name in ("image_index", "extractor")},
        "patient_id": _patient_ids(batch),
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


def quarantine_rows(
    batch: pa.RecordBatch, source: Mapping[str, object], predictor: Predictor, reason: str, message: str
) -> pa.RecordBatch:
    """Return N quarantined rows of :func:`cxrfeat.io.schema.scored_schema`, one for each row of embeddings."""
    schema, count = predictor.schema, len(batch)
    values = {**source, "rows": 1, "reason": reason, "message": message, "status": Status.QUARANTINED.value}
    columns = {name: repeat(schema, name, value, count) for name, value in values.items()}
    names = {name: _strings(batch, name) for name in ("image_index", "augmentation", "extractor")}
    return _to_batch(schema, {**columns, **names, "patient_id": _patient_ids(batch)}, count)


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
    parts = [_to_batch(predictor.schema, columns, len(quarantined))]
    try:
        parts.insert(0, score_rows(embedded, {"drop_file": embedded.column("image_path")}, predictor))
    except VectorsError as error:
        invalid = np.zeros(len(embedded), dtype=bool)
        invalid[list(error.rows)] = True
        if not invalid.any():
            raise
        good, bad = embedded.filter(pa.array(~invalid)), embedded.filter(pa.array(invalid))
        parts.insert(0, score_rows(good, {"drop_file": good.column("image_path")}, predictor))
        refused = quarantine_rows(bad, {}, predictor, error.reason, str(error))
        place = refused.schema.get_field_index("drop_file")
        parts.append(refused.set_column(place, refused.schema.field(place), bad.column("image_path")))
    return [part for part in parts if len(part)]


def repeat(schema: pa.Schema, name: str, value: object, count: int) -> pa.Array:
    """Return a column of a schema that repeats one value."""
    return pa.repeat(pa.scalar(value, schema.field(name).type), count)


def _to_batch(schema: pa.Schema, columns: Mapping[str, pa.Array], count: int) -> pa.RecordBatch:
    """Return a batch with the columns in schema order; missing columns are null."""
    arrays = [columns[field.name] if field.name in columns else pa.nulls(count, field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _patient_ids(batch: pa.RecordBatch) -> pa.Array:
    """Return the patients as texts; whole numbers that are stored as floats or decimals have no decimal point."""
    if "patient_id" not in batch.schema.names:
        return pa.nulls(len(batch), pa.string())
    column = batch.column("patient_id")
    if not (pa.types.is_floating(column.type) or pa.types.is_decimal(column.type)):
        return column.cast(pa.string())
    return pa.array([_as_text(value) for value in column.to_pylist()], pa.string())


def _as_text(value: float | decimal.Decimal | None) -> str | None:
    if value is None or math.isnan(value):
        return None
    return str(int(value)) if math.isfinite(value) and value == int(value) else str(value)


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
