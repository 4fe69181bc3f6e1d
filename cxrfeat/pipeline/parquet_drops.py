"""Score Parquet files with embeddings from any source, without Spark.

Every file is checked before it is used. A row group is scored, but for single rows without a usable vector, or it is
replaced by one quarantined row with the number of its rows and the reason. A file is opened once for all its row
groups, and small row groups are scored together. Memory is bounded whatever a file claims.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cxrfeat.errors import DropError, VectorsError
from cxrfeat.head.inputs import encode_sexes
from cxrfeat.head.predictor import Predictor
from cxrfeat.io import storage
from cxrfeat.io.arrow import is_vectors
from cxrfeat.io.schema import ROW_GROUP, Reason, Status
from cxrfeat.pipeline.score import quarantine, quarantine_rows, repeat, score_rows

SUFFIXES = (".parquet",)

MAX_ROWS = 2_000_000
"""Limit of the rows of one row group; pyarrow and pandas write a million at most."""

MAX_TEXT_BYTES = 4096
"""Limit of one text: the longest path of a file system."""

MAX_BAD_ROWS = 1000
"""Rows of one row group that are quarantined singly; with more, the whole row group is."""

_REQUIRED = ("image_index", "embedding", "extractor")
_OPTIONAL = ("patient_id", "augmentation", "age_years", "sex", "status")
"""Columns that are used if present; a missing age or sex is imputed, and each row records this."""

_MANY_ROWS = 16
"""A batch of at least as many rows without a valid vector condemns its row group."""

_BATCH_ROWS = 2048
"""Rows per read, 16 MB of 2048-d vectors: a large row group is never in memory as a whole."""

_IN_MEMORY_ROWS = 65_536
"""Predictions of larger row groups wait on disk until all rows are checked."""

_READ_BUFFER = 8 << 20
_ROWS_SHOWN = 5
_MAX_EXTRACTORS_SHOWN = 5
_QUARANTINED_BEFORE = "the extraction already quarantined these rows"
_ALLOCATION = re.compile(r"(?:malloc|realloc|allocat\w+) (?:of )?(?:size )?(\d+)")
_LARGEST_ALLOCATION = 4 << 30
"""An allocation of more bytes is what a damaged file asks for; a smaller one that fails is a lack of memory."""

Handle = Mapping[str, object]
"""A row of :data:`cxrfeat.io.schema.ROW_GROUP`."""

SexReport = Callable[[str, int, int], None]
"""Function that receives a path, and the numbers of rows with a sex, and with a known one."""


def open_drop(path: str, root: str, predictor: Predictor) -> pa.RecordBatch:
    """Check a file without reading its vectors, and return its row groups as :data:`cxrfeat.io.schema.ROW_GROUP`.

    Small neighbours form one row: how they are grouped depends on the file alone, and so does every bit of the scores.

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
        if not any(sizes):
            raise DropError(Reason.NO_ROWS, f"the footer declares {rows} rows; the row groups have none")  # noqa: TRY301
        handles = [
            {"path": path, "row_group": chunk.start, "groups": len(chunk), "rows": sum(sizes[chunk.start : chunk.stop])}
            for chunk in _list_chunks(sizes)
        ]
    except DropError as error:
        handles = [{"path": path, "rows": rows, "reason": error.reason, "message": str(error)}]
    return pa.RecordBatch.from_pylist(handles, ROW_GROUP)


def score_row_groups(
    handles: Iterable[Handle], root: str, predictor: Predictor, report_sexes: SexReport = lambda *_: None
) -> Iterator[pa.RecordBatch]:
    """Score row groups or quarantine them, and yield batches of :func:`cxrfeat.io.schema.scored_schema`.

    The first batch of a row group is yielded only after all its rows have been read and checked.

    Args:
        handles: rows of :data:`cxrfeat.io.schema.ROW_GROUP`; neighbours of the same file share one opening of it.
        root: qualified folder of the drops; ``drop_file`` is relative to it.
        predictor: the head.
        report_sexes: function that receives how many of the given sexes of a row group are known.

    Raises:
        OSError: the error is not caused by the file itself.
    """
    for path, group in itertools.groupby(handles, key=lambda handle: str(handle["path"])):
        refused: list[Handle] = []
        wanted: list[Handle] = []
        for handle in group:
            (wanted if handle["reason"] is None else refused).append(handle)
        for handle in refused:
            yield _quarantine_group(predictor, handle, str(handle["reason"]), str(handle["message"]))
        if wanted:
            yield from _FileScorer(path, root, predictor, report_sexes).score(wanted)


class _FileScorer:
    """Scorer of the row groups of one file."""

    def __init__(self, path: str, root: str, predictor: Predictor, report_sexes: SexReport) -> None:
        self._path = path
        self._location = storage.locate(root, path)
        self._predictor = predictor
        self._report_sexes = report_sexes

    def score(self, handles: Sequence[Handle]) -> Iterator[pa.RecordBatch]:
        """Yield the scored and quarantined rows of row groups."""
        left = list(handles)
        try:
            with _open(self._location) as file:
                while left:
                    yield from self._score_groups(file, left[0])
                    left.pop(0)
        except DropError as error:  # the file has changed since it was listed
            for handle in left:
                yield _quarantine_group(self._predictor, handle, error.reason, str(error))

    def _score_groups(self, file: pq.ParquetFile, handle: Handle) -> Iterator[pa.RecordBatch]:
        """Yield the rows of neighbouring row groups: scored together, or one by one if one of them is unusual."""
        first, count = _whole_number(handle, "row_group"), _whole_number(handle, "groups")
        numbers = range(first, first + count)
        sizes = [file.metadata.row_group(number).num_rows for number in numbers if number < file.num_row_groups]
        if len(sizes) != count or sum(sizes) != handle["rows"]:
            message = f"{sum(sizes)} rows, {handle['rows']} when they were listed: the file has changed"
            yield _quarantine_group(self._predictor, handle, Reason.UNSOUND, message)
            return
        if count > 1 and (batch := self._score_together(file, numbers, sizes)) is not None:
            yield batch
            return
        for number, rows in zip(numbers, sizes, strict=True):
            if rows:
                yield from self._score_one(file, number, rows)

    def _score_together(
        self, file: pq.ParquetFile, numbers: Sequence[int], sizes: Sequence[int]
    ) -> pa.RecordBatch | None:
        """Return the rows of small row groups; None if anything about one of them is unusual."""
        try:
            with _own_errors(self._location):
                table = file.read_row_groups(list(numbers), columns=_list_columns(file), use_threads=False)
                (batch,) = table.combine_chunks().to_batches()
                _check_texts(batch)
                if len(batch) != sum(sizes) or not _all_ok(batch):
                    return None
                columns = {
                    "drop_file": repeat(self._predictor.schema, "drop_file", self._path, len(batch)),
                    "row_group": pa.array(np.repeat(numbers, sizes), self._predictor.schema.field("row_group").type),
                }
                scored = score_rows(batch, columns, self._predictor)
        except (DropError, VectorsError):
            return None
        self._count_sexes(batch)
        return scored

    def _score_one(self, file: pq.ParquetFile, number: int, rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a row group, or one quarantined row."""
        with contextlib.ExitStack() as stack:
            try:
                with _own_errors(self._location):
                    batches = self._score_batches(file, number)
                    scored = _spool(batches, self._predictor.schema, stack) if rows > _IN_MEMORY_ROWS else list(batches)
            except DropError as error:
                handle = {"path": self._path, "row_group": number, "rows": rows}
                scored = [_quarantine_group(self._predictor, handle, error.reason, str(error))]
            yield from scored

    def _score_batches(self, file: pq.ParquetFile, number: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows of one row group; those that cannot be scored are quarantined singly, up to a limit."""
        declared = file.metadata.row_group(number).num_rows
        if declared > MAX_ROWS:
            raise DropError(Reason.TOO_LARGE, f"a row group of {declared} rows; expected at most {MAX_ROWS}")
        schema, start, bad = self._predictor.schema, 0, 0
        source = {"drop_file": self._path, "row_group": number}
        refused: Counter[tuple[str, str]] = Counter()  # by the status of the rows: reason and message → rows
        columns_read = _list_columns(file)
        for whole in file.iter_batches(_BATCH_ROWS, row_groups=[number], columns=columns_read, use_threads=False):
            _check_texts(whole)
            batch, places = _select_ok(whole, refused)
            while len(batch):
                columns = {name: repeat(schema, name, value, len(batch)) for name, value in source.items()}
                try:
                    yield score_rows(batch, columns, self._predictor)
                    self._count_sexes(batch)
                    break
                except VectorsError as error:
                    bad += len(error.rows)
                    if not error.rows or bad > MAX_BAD_ROWS or _MANY_ROWS <= len(error.rows) == len(whole):
                        shown = ", ".join(str(start + int(places[row])) for row in error.rows[:_ROWS_SHOWN])
                        where = f"; rows of the row group: {shown}" if shown else ""
                        raise DropError(error.reason, f"{error}{where}") from error
                    invalid = np.zeros(len(batch), dtype=bool)
                    invalid[list(error.rows)] = True
                    yield quarantine_rows(
                        batch.filter(pa.array(invalid)), source, self._predictor, error.reason, str(error)
                    )
                    batch, places = batch.filter(pa.array(~invalid)), places[~invalid]
            start += len(whole)
        if start != declared:
            raise DropError(Reason.NOT_PARQUET, f"{start} rows are readable; the footer declares {declared}")
        for (reason, message), count in refused.items():
            yield quarantine(schema, source | {"rows": count, "reason": reason, "message": message})

    def _count_sexes(self, batch: pa.RecordBatch) -> None:
        if "sex" in batch.schema.names:
            given = batch.column("sex").cast(pa.string())
            known = int(np.isfinite(encode_sexes(given)).sum())
            self._report_sexes(self._path, len(given) - given.null_count, known)


def _whole_number(handle: Handle, name: str) -> int:
    number = handle[name]
    assert isinstance(number, int)  # null only for a whole file, which has a reason  # noqa: S101
    return number


def _list_chunks(sizes: Sequence[int]) -> Iterator[range]:
    """Yield neighbouring row groups with at most :data:`_BATCH_ROWS` rows together, or single larger ones."""
    first = total = 0
    for number, size in enumerate(sizes):
        if number > first and total + size > _BATCH_ROWS:
            yield range(first, number)
            first, total = number, 0
        total += size
    yield range(first, len(sizes))


def _quarantine_group(predictor: Predictor, handle: Handle, reason: str, message: str) -> pa.RecordBatch:
    source = {"drop_file": handle["path"], "row_group": handle["row_group"], "rows": handle["rows"]}
    return quarantine(predictor.schema, source | {"reason": reason, "message": message})


def _list_columns(file: pq.ParquetFile) -> list[str]:
    return [name for name in (*_REQUIRED, *_OPTIONAL) if name in file.schema_arrow.names]


def _all_ok(batch: pa.RecordBatch) -> bool:
    if "status" not in batch.schema.names:
        return True
    return set(pc.unique(batch.column("status").cast(pa.string())).to_pylist()) == {Status.OK.value}


def _select_ok(
    batch: pa.RecordBatch, refused: Counter[tuple[str, str]]
) -> tuple[pa.RecordBatch, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Return the rows whose status is ok and their places in the batch, and count the others by reason and message."""
    places = np.arange(len(batch))
    if "status" not in batch.schema.names:
        return batch, places
    statuses = batch.column("status").cast(pa.string())
    for entry in pc.value_counts(statuses).to_pylist():
        if entry["values"] == Status.QUARANTINED:
            refused[Reason.QUARANTINED_BEFORE, _QUARANTINED_BEFORE] += entry["counts"]
        elif entry["values"] != Status.OK:
            message = f"status is {entry['values']!r}; expected {Status.OK} or {Status.QUARANTINED}"
            refused[Reason.UNKNOWN_STATUS, message] += entry["counts"]
    ok = pc.fill_null(pc.equal(statuses, Status.OK.value), False)
    return batch.filter(ok), places[np.asarray(ok.to_numpy(zero_copy_only=False), dtype=bool)]


def _check_texts(batch: pa.RecordBatch) -> None:
    """Check that all texts are UTF-8 and not too long.

    Raises:
        DropError: one is not.
    """
    for name in batch.schema.names:
        column = batch.column(name)
        values = column.dictionary if isinstance(column, pa.DictionaryArray) else column
        if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
            continue
        try:
            values.validate(full=True)
        except pa.ArrowInvalid as error:
            raise DropError(Reason.NOT_UTF8, f"column {name}: {error}") from error
        longest = pc.max(pc.binary_length(values)).as_py() or 0
        if longest > MAX_TEXT_BYTES:
            raise DropError(
                Reason.TOO_LARGE, f"column {name} has a text of {longest} bytes; expected at most {MAX_TEXT_BYTES}"
            )


def _spool(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, stack: contextlib.ExitStack
) -> Iterator[pa.RecordBatch]:
    """Write batches to a temporary file, and return an iterator over them that reads it."""
    file = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
    with pa.ipc.new_stream(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    file.seek(0)
    return iter(pa.ipc.open_stream(file))


@contextlib.contextmanager
def _open(uri: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file, and turn errors in the file itself into DropError, also those of reads inside the context.

    Texts are read with their dictionaries, so that a long text is not repeated in memory.

    Raises:
        DropError: the file is missing, unreadable, empty or not valid Parquet.
        OSError: the error is not caused by the file itself.
    """
    options = {"buffer_size": _READ_BUFFER, "pre_buffer": False, "page_checksum_verification": True}
    with _own_errors(uri), storage.open_input(uri) as stream:
        if not stream.size():
            raise DropError(Reason.EMPTY, "the file is empty")
        file = pq.ParquetFile(stream, **options)
        names = file.schema_arrow.names
        texts = [
            name
            for name in (*_REQUIRED, *_OPTIONAL)
            if names.count(name) == 1 and pa.types.is_string(file.schema_arrow.field(name).type)
        ]
        if texts:
            file = pq.ParquetFile(stream, metadata=file.metadata, read_dictionary=texts, **options)
        yield file


@contextlib.contextmanager
def _own_errors(uri: str) -> Iterator[None]:
    """Turn every error that a file itself causes into DropError.

    Raises:
        DropError: the file causes the error; ``unsound`` is the reason of an error of an unexpected kind.
        MemoryError, OSError: the machine causes it; the message names the file.
    """
    try:
        yield
    except (DropError, VectorsError):
        raise
    except MemoryError as error:
        asked = _ALLOCATION.search(str(error))
        if asked is None or int(asked[1]) < _LARGEST_ALLOCATION:
            raise MemoryError(f"{uri}: {error}") from error
        raise _not_parquet(error) from error
    except pa.ArrowException as error:
        raise _not_parquet(error) from error
    except OSError as error:
        reason = storage.quarantine_reason(error)
        if reason is not None:
            raise DropError(reason, str(error)) from error
        _raise_if_storage_error(uri, error)
        raise _not_parquet(error) from error
    except UnicodeDecodeError as error:
        raise DropError(Reason.NOT_UTF8, f"a name or value is not UTF-8: {error}") from error
    # Whatever else a reader raises over one file must not end the job for all others.
    except Exception as error:
        raise DropError(Reason.UNSOUND, f"{type(error).__name__}: {error}") from error


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
        raise DropError(Reason.MISSING_COLUMN, f"missing columns: {', '.join(missing)}; the file has {found[:1000]}")
    twice = [name for name in (*_REQUIRED, *_OPTIONAL) if schema.names.count(name) > 1]
    if twice:
        raise DropError(Reason.DUPLICATE_COLUMN, f"columns that occur more than once: {', '.join(twice)}")
    expected = {
        **dict.fromkeys(("image_index", "extractor", "augmentation", "sex", "status"), ("strings", _is_string)),
        "patient_id": ("strings or numbers", lambda dtype: _is_string(dtype) or _is_number(dtype)),
        "age_years": ("numbers", _is_number),
        "embedding": ("lists of floats", is_vectors),
    }
    for name, (type_name, is_expected) in expected.items():
        if name in schema.names:
            dtype = schema.field(name).type
            if not is_expected(dtype) and not (pa.types.is_null(dtype) and name in _OPTIONAL):
                raise DropError(Reason.WRONG_TYPE, f"column {name} has type {dtype}; expected {type_name}")


def _is_string(dtype: pa.DataType) -> bool:
    dtype = dtype.value_type if pa.types.is_dictionary(dtype) else dtype
    return bool(pa.types.is_string(dtype) or pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype))


def _is_number(dtype: pa.DataType) -> bool:
    return bool(pa.types.is_integer(dtype) or pa.types.is_floating(dtype) or pa.types.is_decimal(dtype))


def _check_extractors(uri: str, file: pq.ParquetFile, predictor: Predictor) -> None:
    """Check that all rows come from the extractor that the head was trained on.

    A row group whose extractor column is unreadable is skipped here; scoring quarantines it alone.
    """
    counts: Counter[str | None] = Counter()
    for chunk in _list_chunks([file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]):
        try:
            _count_extractors(uri, file, chunk, counts)
        except DropError:
            for number in chunk:
                with contextlib.suppress(DropError):
                    _count_extractors(uri, file, [number], counts)
    expected = predictor.bundle.extractor
    if not counts or set(counts) == {expected}:
        return
    shown = counts.most_common(_MAX_EXTRACTORS_SHOWN)
    found = ", ".join(f"{name!r} ({count} rows)" for name, count in shown)
    reason = Reason.MIXED_EXTRACTORS if len(counts) > 1 else Reason.OTHER_EXTRACTOR
    raise DropError(reason, f"embeddings of {found}; the head was trained on {expected!r}")


def _count_extractors(uri: str, file: pq.ParquetFile, numbers: Sequence[int], counts: Counter[str | None]) -> None:
    """Add the number of rows of each extractor in row groups.

    Raises:
        DropError: the column is unreadable; nothing is added.
    """
    found: Counter[str | None] = Counter()
    with _own_errors(uri):
        for batch in file.iter_batches(1 << 16, row_groups=list(numbers), columns=["extractor"], use_threads=False):
            _check_texts(batch)
            for entry in pc.value_counts(batch.column("extractor").cast(pa.string())).to_pylist():
                found[entry["values"]] += entry["counts"]
    counts.update(found)
