"""Score Parquet files with embeddings from any source, one row group at a time, without Spark.

Every file is checked before it is used. A row group is either scored completely or replaced by one quarantined row with
the number of its rows and the reason.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cxrfeat.errors import DropError, VectorsError
from cxrfeat.head.predictor import Predictor
from cxrfeat.io import storage
from cxrfeat.io.arrow import is_vectors
from cxrfeat.io.schema import ROW_GROUP, Reason, Status
from cxrfeat.pipeline.score import quarantine, repeat, score_rows

SUFFIXES = (".parquet",)

_REQUIRED = ("image_index", "embedding", "extractor")
_OPTIONAL = ("patient_id", "augmentation", "age_years", "sex", "status")
"""Columns that are used if present; a missing age or sex is imputed, and each row records this."""

_BATCH_ROWS = 2048
"""Rows per read, 16 MB of 2048-d vectors: a large row group is never in memory as a whole."""

_READ_BUFFER = 8 << 20
_ROWS_SHOWN = 5
_QUARANTINED_BEFORE = "the extraction already quarantined these rows"


def open_drop(path: str, root: str, predictor: Predictor) -> pa.RecordBatch:
    """Check a file without reading its vectors, and return its row groups as :data:`cxrfeat.io.schema.ROW_GROUP`.

    For an invalid file, the result is a single row with the reason.

    Raises:
        OSError: the error is not caused by the file itself.
    """
    rows = None
    location = storage.locate(root, path)
    try:
        with _open(location) as file:
            rows = file.metadata.num_rows
            _check_file(location, file, predictor)
            sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
        handles = [{"path": path, "row_group": number, "rows": size} for number, size in enumerate(sizes) if size]
    except DropError as error:
        handles = [{"path": path, "rows": rows, "reason": error.reason, "message": str(error)}]
    return pa.RecordBatch.from_pylist(handles, ROW_GROUP)


def score_row_group(handle: Mapping[str, object], root: str, predictor: Predictor) -> Iterator[pa.RecordBatch]:
    """Score a row group or quarantine it, and yield batches of :func:`cxrfeat.io.schema.scored_schema`.

    The first batch is yielded only after all rows have been read and checked.

    Args:
        handle: a row of :data:`cxrfeat.io.schema.ROW_GROUP`.
        root: qualified folder of the drops; ``drop_file`` is relative to it.
        predictor: the head.

    Raises:
        OSError: the error is not caused by the file itself.
        RuntimeError: the number of scored rows differs from the number in the footer.
    """
    path, number = str(handle["path"]), handle["row_group"]
    source = {"drop_file": path, "row_group": number}
    if handle["reason"] is not None:
        yield quarantine(
            predictor.schema, dict(source) | {name: handle[name] for name in ("rows", "reason", "message")}
        )
        return
    assert isinstance(number, int)  # null only for a whole file, which has a reason  # noqa: S101
    try:
        with _open(storage.locate(root, path)) as file:
            scored = list(_score_batches(file, number, source, predictor))
    except DropError as error:
        yield quarantine(
            predictor.schema, dict(source) | {"rows": handle["rows"], "reason": error.reason, "message": str(error)}
        )
        return
    count = sum(pc.sum(batch.column("rows")).as_py() for batch in scored)
    if count != handle["rows"]:
        raise RuntimeError(f"{path}, row group {number}: scored {count} rows; the footer declares {handle['rows']}")
    yield from scored


def _score_batches(
    file: pq.ParquetFile, number: int, source: Mapping[str, object], predictor: Predictor
) -> Iterator[pa.RecordBatch]:
    columns = [name for name in (*_REQUIRED, *_OPTIONAL) if name in file.schema_arrow.names]
    start = quarantined = 0
    for batch in file.iter_batches(_BATCH_ROWS, row_groups=[number], columns=columns, use_threads=False):
        embedded = batch
        if "status" in columns:
            embedded = batch.filter(pc.equal(batch.column("status").cast(pa.string()), Status.OK.value))
            quarantined += len(batch) - len(embedded)
        if len(embedded):
            source_columns = {
                name: repeat(predictor.schema, name, value, len(embedded)) for name, value in source.items()
            }
            try:
                yield score_rows(embedded, source_columns, predictor)
            except VectorsError as error:
                rows = ", ".join(str(start + row) for row in error.rows[:_ROWS_SHOWN])
                where = f"; rows of the row group: {rows}" if rows else ""
                raise DropError(error.reason, f"{error}{where}") from error
        start += len(batch)
    if quarantined:
        reason = {"reason": Reason.QUARANTINED_BEFORE, "message": _QUARANTINED_BEFORE}
        yield quarantine(predictor.schema, dict(source) | {"rows": quarantined} | reason)


@contextlib.contextmanager
def _open(uri: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file, and turn errors in the file itself into DropError, also those of reads inside the context.

    Raises:
        DropError: the file is missing, unreadable, empty or not valid Parquet.
        OSError: the error is not caused by the file itself.
    """
    try:
        with storage.open_input(uri) as stream:
            if not stream.size():
                raise DropError(Reason.EMPTY, "the file is empty")
            yield pq.ParquetFile(stream, buffer_size=_READ_BUFFER, pre_buffer=False, page_checksum_verification=True)
    except pa.ArrowException as error:
        raise _not_parquet(error) from error
    except OSError as error:
        reason = storage.quarantine_reason(error)
        if reason is not None:
            raise DropError(reason, str(error)) from error
        _raise_if_storage_error(uri, error)
        raise _not_parquet(error) from error


def _not_parquet(error: Exception) -> DropError:
    return DropError(Reason.NOT_PARQUET, f"not a valid Parquet file: {' '.join(str(error).split())}")


def _raise_if_storage_error(uri: str, error: OSError) -> None:
    """Raise the error again unless the file itself caused it.

    Decoders raise OSError for damaged pages, but so does a network failure. Errors of S3 are recognised by their text.
    For all others the file is read again: if that succeeds, the storage works and the contents are damaged.

    Raises:
        OSError: the error is not caused by the file itself.
    """
    if storage.is_s3_error(error):
        raise error
    with storage.open_input(uri) as stream:
        while stream.read(_READ_BUFFER):
            pass


def _check_file(uri: str, file: pq.ParquetFile, predictor: Predictor) -> None:
    """Check everything in a file except the vectors.

    Raises:
        DropError: a check fails; the error describes the first failure.
    """
    if storage.partition_value(uri, "status") == Status.QUARANTINED:
        raise DropError(Reason.QUARANTINED_BEFORE, _QUARANTINED_BEFORE)
    _check_schema(file.schema_arrow)
    if not file.metadata.num_rows:
        raise DropError(Reason.NO_ROWS, "the file has columns but no rows")
    _check_extractors(uri, file, predictor)


def _check_schema(schema: pa.Schema) -> None:
    missing = [name for name in _REQUIRED if name not in schema.names]
    if missing:
        found = ", ".join(schema.names)
        raise DropError(Reason.MISSING_COLUMN, f"missing columns: {', '.join(missing)}; the file has {found}")
    expected = {
        **dict.fromkeys(("image_index", "extractor", "augmentation", "sex", "status"), ("strings", _is_string)),
        "patient_id": ("strings or integers", lambda dtype: _is_string(dtype) or pa.types.is_integer(dtype)),
        "age_years": ("numbers", lambda dtype: pa.types.is_integer(dtype) or pa.types.is_floating(dtype)),
        "embedding": ("lists of float32 or float64", is_vectors),
    }
    for name, (type_name, is_expected) in expected.items():
        if name in schema.names:
            dtype = schema.field(name).type
            if not is_expected(dtype) and not (pa.types.is_null(dtype) and name in _OPTIONAL):
                raise DropError(Reason.WRONG_TYPE, f"column {name} has type {dtype}; expected {type_name}")


def _is_string(dtype: pa.DataType) -> bool:
    dtype = dtype.value_type if pa.types.is_dictionary(dtype) else dtype
    return bool(pa.types.is_string(dtype) or pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype))


def _check_extractors(uri: str, file: pq.ParquetFile, predictor: Predictor) -> None:
    """Check that all rows come from the extractor that the head was trained on.

    A row group whose extractor column is unreadable is skipped here; scoring quarantines it alone.
    """
    counts: Counter[str | None] = Counter()
    for number in range(file.num_row_groups):
        try:
            names = file.read_row_group(number, columns=["extractor"], use_threads=False)["extractor"]
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and storage.quarantine_reason(error) is None:
                _raise_if_storage_error(uri, error)
            continue
        for entry in pc.value_counts(names.cast(pa.string()).combine_chunks()).to_pylist():
            counts[entry["values"]] += entry["counts"]
    expected = predictor.bundle.extractor
    if not counts or set(counts) == {expected}:
        return
    found = ", ".join(f"{name!r} ({count} rows)" for name, count in counts.most_common())
    reason = Reason.MIXED_EXTRACTORS if len(counts) > 1 else Reason.OTHER_EXTRACTOR
    raise DropError(reason, f"embeddings of {found}; the head was trained on {expected!r}")
