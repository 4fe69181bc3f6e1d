"""Score Parquet files with embeddings from any source, without Spark.

Every file is checked before it is used. A row group is scored, but for single rows without a usable vector, or it is
replaced by one quarantined row with the number of its rows and the reason. A file is opened once for all its row
groups, and small row groups are scored together. Memory is bounded whatever a file claims.
"""

from __future__ import annotations

import contextlib
import itertools
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
from cxrfeat.io.schema import ROW_GROUP, Reason, Status
from cxrfeat.pipeline.drop_file import (
    BATCH_ROWS,
    QUARANTINED_BEFORE_TEXT,
    check_file,
    check_texts,
    list_chunks,
    list_columns,
    open_parquet,
    own_errors,
)
from cxrfeat.pipeline.score import quarantine, quarantine_rows, repeat, score_rows

SUFFIXES = (".parquet",)

MAX_ROWS = 2_000_000
"""Limit of the rows of one row group; pyarrow and pandas write a million at most."""

MAX_BAD_ROWS = 1000
"""Rows of one row group that are quarantined singly; with more, the whole row group is."""

_MANY_ROWS = 16
"""A batch of at least as many rows without a valid vector condemns its row group."""

_IN_MEMORY_ROWS = 65_536
"""Predictions of larger row groups wait on disk until all rows are checked."""

_ROWS_SHOWN = 5
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
        with open_parquet(location) as file:
            rows = file.metadata.num_rows
            check_file(location, file, predictor)
            sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
        if not any(sizes):
            raise DropError(Reason.NO_ROWS, f"the footer declares {rows} rows; the row groups have none")  # noqa: TRY301
        handles = [
            {"path": path, "row_group": chunk.start, "groups": len(chunk), "rows": sum(sizes[chunk.start : chunk.stop])}
            for chunk in list_chunks(sizes)
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
            with open_parquet(self._location) as file:
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
            with own_errors(self._location):
                table = file.read_row_groups(list(numbers), columns=list_columns(file), use_threads=False)
                (batch,) = table.combine_chunks().to_batches()
                check_texts(batch)
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
                with own_errors(self._location):
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
        columns_read = list_columns(file)
        for whole in file.iter_batches(BATCH_ROWS, row_groups=[number], columns=columns_read, use_threads=False):
            check_texts(whole)
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


def _quarantine_group(predictor: Predictor, handle: Handle, reason: str, message: str) -> pa.RecordBatch:
    source = {"drop_file": handle["path"], "row_group": handle["row_group"], "rows": handle["rows"]}
    return quarantine(predictor.schema, source | {"reason": reason, "message": message})


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
            refused[Reason.QUARANTINED_BEFORE, QUARANTINED_BEFORE_TEXT] += entry["counts"]
        elif entry["values"] != Status.OK:
            message = f"status is {entry['values']!r}; expected {Status.OK} or {Status.QUARANTINED}"
            refused[Reason.UNKNOWN_STATUS, message] += entry["counts"]
    ok = pc.fill_null(pc.equal(statuses, Status.OK.value), False)
    return batch.filter(ok), places[np.asarray(ok.to_numpy(zero_copy_only=False), dtype=bool)]


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
