"""Open and check Parquet files with embeddings from any source, without reading their vectors.

Every error that a file itself causes becomes a DropError with a reason; those of the machine stay what they are.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cxrfeat.errors import DropError, VectorsError
from cxrfeat.head.predictor import Predictor
from cxrfeat.io import storage
from cxrfeat.io.arrow import is_vectors
from cxrfeat.io.schema import Reason, Status

MAX_TEXT_BYTES = 4096
"""Limit of one text: the longest path of a file system."""

_REQUIRED = ("image_index", "embedding", "extractor")
_OPTIONAL = ("patient_id", "augmentation", "age_years", "sex", "status")
"""Columns that are used if present; a missing age or sex is imputed, and each row records this."""

BATCH_ROWS = 2048
"""Rows per read, 16 MB of 2048-d vectors: a large row group is never in memory as a whole."""

_READ_BUFFER = 8 << 20
_MAX_EXTRACTORS_SHOWN = 5
QUARANTINED_BEFORE_TEXT = "the extraction already quarantined these rows"
_ALLOCATION = re.compile(r"(?:malloc|realloc|allocat\w+) (?:of )?(?:size )?(\d+)")
_LARGEST_ALLOCATION = 4 << 30
"""An allocation of more bytes is what a damaged file asks for; a smaller one that fails is a lack of memory."""


@contextlib.contextmanager
def open_parquet(uri: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file, and turn errors in the file itself into DropError, also those of reads inside the context.

    Texts are read with their dictionaries, so that a long text is not repeated in memory.

    Raises:
        DropError: the file is missing, unreadable, empty or not valid Parquet.
        OSError: the error is not caused by the file itself.
    """
    options = {"buffer_size": _READ_BUFFER, "pre_buffer": False, "page_checksum_verification": True}
    with own_errors(uri), storage.open_input(uri) as stream:
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
def own_errors(uri: str) -> Iterator[None]:
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


def check_file(uri: str, file: pq.ParquetFile, predictor: Predictor) -> None:
    """Check everything in a file except the vectors.

    Raises:
        DropError: a check fails; the error describes the first failure.
    """
    if storage.partition_value(uri, "status") == Status.QUARANTINED:
        raise DropError(Reason.QUARANTINED_BEFORE, QUARANTINED_BEFORE_TEXT)
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
    for chunk in list_chunks([file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]):
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
    with own_errors(uri):
        for batch in file.iter_batches(1 << 16, row_groups=list(numbers), columns=["extractor"], use_threads=False):
            check_texts(batch)
            for entry in pc.value_counts(batch.column("extractor").cast(pa.string())).to_pylist():
                found[entry["values"]] += entry["counts"]
    counts.update(found)


def check_texts(batch: pa.RecordBatch) -> None:
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


def list_columns(file: pq.ParquetFile) -> list[str]:
    return [name for name in (*_REQUIRED, *_OPTIONAL) if name in file.schema_arrow.names]


def list_chunks(sizes: Sequence[int]) -> Iterator[range]:
    """Yield neighbouring row groups with at most :data:`BATCH_ROWS` rows together, or single larger ones."""
    first = total = 0
    for number, size in enumerate(sizes):
        if number > first and total + size > BATCH_ROWS:
            yield range(first, number)
            first, total = number, 0
        total += size
    yield range(first, len(sizes))
