"""Parquet files with embeddings from anywhere → predictions, row group by row group. No Spark inside.

Nothing of a file is trusted before it is checked, and the unit of trust is a row group: it is scored as a whole, or it
is one row in quarantine that says how many rows it stands for and why.
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
"""Columns that are used where they are there: without age or sex it is imputed, and said so in each row."""

_BATCH_ROWS = 2048
"""16 MB of 2048-d vectors: a row group of a whole hospital is never in memory as a whole."""

_READ_BUFFER = 8 << 20
_NAMED = 5
_BEFORE = "the extraction had put these rows in quarantine already"


def open_drop(uri: str, predictor: Predictor) -> pa.RecordBatch:
    """Look into a file without reading its vectors, and return its row groups: :data:`cxrfeat.io.schema.ROW_GROUP`.

    A file that can't be trusted as a whole is one row with its reason.

    Raises:
        OSError: an error that does not belong to the file.
    """
    rows = None
    try:
        with _open(uri) as file:
            rows = file.metadata.num_rows
            _check_file(uri, file, predictor)
            sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
        handles = [{"uri": uri, "row_group": number, "rows": size} for number, size in enumerate(sizes) if size]
    except DropError as error:
        handles = [{"uri": uri, "rows": rows, "reason": error.reason, "message": str(error)}]
    return pa.RecordBatch.from_pylist(handles, ROW_GROUP)


def score_row_group(handle: Mapping[str, object], root: str, predictor: Predictor) -> Iterator[pa.RecordBatch]:
    """Score a row group, or put it in quarantine, and return :func:`cxrfeat.io.schema.predictions_schema` without ``round``.

    Nothing is returned before the last of its rows is read and checked.

    Args:
        handle: a row of :data:`cxrfeat.io.schema.ROW_GROUP`.
        root: qualified folder of the drops; ``drop_file`` is relative to it.
        predictor: the head.

    Raises:
        OSError: an error that does not belong to the file.
    """
    uri, number = str(handle["uri"]), handle["row_group"]
    place = {"drop_file": storage.relative_to(uri, root), "row_group": number}
    if handle["reason"] is not None:
        yield quarantine(dict(place) | {name: handle[name] for name in ("rows", "reason", "message")})
        return
    assert isinstance(number, int)  # only a file as a whole has none, and it has a reason  # noqa: S101
    try:
        with _open(uri) as file:
            scored = list(_score_batches(file, number, place, predictor))
    except DropError as error:
        yield quarantine(dict(place) | {"rows": handle["rows"], "reason": error.reason, "message": str(error)})
        return
    found = sum(pc.sum(batch.column("rows")).as_py() for batch in scored)
    if found != handle["rows"]:
        raise RuntimeError(f"{uri}, row group {number}: {found} rows were scored; its footer promises {handle['rows']}")
    yield from scored


def _score_batches(
    file: pq.ParquetFile, number: int, place: Mapping[str, object], predictor: Predictor
) -> Iterator[pa.RecordBatch]:
    columns = [name for name in (*_REQUIRED, *_OPTIONAL) if name in file.schema_arrow.names]
    start = refused = 0
    for batch in file.iter_batches(_BATCH_ROWS, row_groups=[number], columns=columns, use_threads=False):
        usable = batch
        if "status" in columns:
            usable = batch.filter(pc.equal(batch.column("status").cast(pa.string()), Status.OK.value))
            refused += len(batch) - len(usable)
        if len(usable):
            columns_of_place = {name: repeat(name, value, len(usable)) for name, value in place.items()}
            try:
                yield score_rows(usable, columns_of_place, predictor)
            except VectorsError as error:
                rows = [start + row for row in error.rows[:_NAMED]]
                where = f"; rows {rows} of the row group" if rows else ""
                raise DropError(error.reason, f"{error}{where}") from error
        start += len(batch)
    if refused:
        yield quarantine(dict(place) | {"rows": refused, "reason": Reason.QUARANTINED_BEFORE, "message": _BEFORE})


@contextlib.contextmanager
def _open(uri: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file; what is wrong with the file itself becomes a DropError, on any read inside.

    Raises:
        DropError: it is gone, may not be read, is empty, or is no sound Parquet.
        OSError: an error that does not belong to the file.
    """
    try:
        with storage.open_input(uri) as stream:
            if not stream.size():
                raise DropError(Reason.EMPTY, "the file has no byte")
            yield pq.ParquetFile(stream, buffer_size=_READ_BUFFER, pre_buffer=False, page_checksum_verification=True)
    except pa.ArrowException as error:
        raise _unsound(error) from error
    except OSError as error:
        reason = storage.reason_of(error)
        if reason is not None:
            raise DropError(reason, str(error)) from error
        _acquit_storage(uri, error)
        raise _unsound(error) from error


def _unsound(error: Exception) -> DropError:
    return DropError(Reason.NOT_PARQUET, f"no sound Parquet: {' '.join(str(error).split())}")


def _acquit_storage(uri: str, error: OSError) -> None:
    """Return if it is the file that is wrong: decoders raise OSError for damaged pages, and so does a network.

    S3's errors can be told by their words. Of any other, if the bytes can be had now, the bytes are wrong.

    Raises:
        OSError: an error that does not belong to the file.
    """
    if storage.is_of_s3(error):
        raise error
    with storage.open_input(uri) as stream:
        while stream.read(_READ_BUFFER):
            pass


def _check_file(uri: str, file: pq.ParquetFile, predictor: Predictor) -> None:
    """Check all that can be known of a file without its vectors.

    Raises:
        DropError: what is wrong first.
    """
    if storage.partition_value(uri, "status") == Status.QUARANTINED:
        raise DropError(Reason.QUARANTINED_BEFORE, _BEFORE)
    _check_schema(file.schema_arrow)
    if not file.metadata.num_rows:
        raise DropError(Reason.NO_ROWS, "the file has columns, but no row")
    _check_extractors(uri, file, predictor)


def _check_schema(schema: pa.Schema) -> None:
    missing = [name for name in _REQUIRED if name not in schema.names]
    if missing:
        raise DropError(Reason.MISSING_COLUMN, f"the columns {missing} are missing; the file has {schema.names}")
    expected = {
        **dict.fromkeys(("image_index", "extractor", "augmentation", "sex", "status"), ("strings", _is_text)),
        "patient_id": ("strings or integers", lambda kind: _is_text(kind) or pa.types.is_integer(kind)),
        "age_years": ("numbers", lambda kind: pa.types.is_integer(kind) or pa.types.is_floating(kind)),
        "embedding": ("lists of float32 or float64", is_vectors),
    }
    for name, (wanted, holds) in expected.items():
        if name in schema.names:
            kind = schema.field(name).type
            if not holds(kind) and not (pa.types.is_null(kind) and name in _OPTIONAL):
                raise DropError(Reason.WRONG_TYPE, f"{name} is {kind}; expected {wanted}")


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _check_extractors(uri: str, file: pq.ParquetFile, predictor: Predictor) -> None:
    """Check that all rows come from the extractor that the head was trained on.

    A row group whose names can't be read is left for its own turn: it will be in quarantine alone.
    """
    counts: Counter[str | None] = Counter()
    for number in range(file.num_row_groups):
        try:
            names = file.read_row_group(number, columns=["extractor"], use_threads=False)["extractor"]
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and storage.reason_of(error) is None:
                _acquit_storage(uri, error)
            continue
        for entry in pc.value_counts(names.cast(pa.string()).combine_chunks()).to_pylist():
            counts[entry["values"]] += entry["counts"]
    expected = predictor.bundle.extractor
    if not counts or set(counts) == {expected}:
        return
    found = ", ".join(f"{name!r} ({count} rows)" for name, count in counts.most_common())
    reason = Reason.MIXED_EXTRACTORS if len(counts) > 1 else Reason.OTHER_EXTRACTOR
    raise DropError(reason, f"embeddings of {found}; the head was trained on {expected!r}")
