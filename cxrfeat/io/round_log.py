"""Log of the rounds of one output folder: every item is planned in exactly one round, whenever the job is killed.

A round is written to ``FOLDER/N.parquet`` before it is processed, and to ``FOLDER/N.done`` after its table is written.
Both writes are atomic. So after a kill either the round does not exist and its items are listed again, or it is
repeated with the same items into the same folder, or it is done. Outputs that Spark's file stream began are continued:
see :mod:`cxrfeat.io.spark_checkpoint`.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from cxrfeat.errors import CheckpointError
from cxrfeat.io import refs, storage
from cxrfeat.io.refs import ImageRef
from cxrfeat.io.schema import HANDLE
from cxrfeat.io.spark_checkpoint import read_stream

CHECKPOINT = "_checkpoint"
"""Folder of an output that holds the state of its rounds."""

_NAME = re.compile(r"(\d+)\.(parquet|done)")

_READERS = 16
"""Threads that read the log, for object stores."""


class PlannedRound(NamedTuple):
    """One round of the log.

    Attributes:
        number: number of the round, from 0.
        items: the items of the round, in the order in which they are processed.
    """

    number: int
    items: Sequence[ImageRef]


class RoundLog:
    """Log of rounds below one folder; a job is its only writer.

    Attributes:
        known: keys of all items that are in any round.
        unfinished: the round that an earlier run has planned and not finished, or None.
        notes: what each finished round has noted, by its number.
    """

    def __init__(self, checkpoint: str, root: str) -> None:
        """Read the log in a checkpoint folder, which may not exist yet.

        Args:
            checkpoint: qualified location of the folder.
            root: qualified root of the items, to which paths in an older log are relative.

        Raises:
            CheckpointError: the log is damaged.
        """
        self._folder = storage.join(checkpoint, "rounds")
        names = [match for match in map(_NAME.fullmatch, storage.list_names(self._folder)) if match]
        planned = sorted(int(match[1]) for match in names if match[2] == "parquet")
        done = {int(match[1]) for match in names if match[2] == "done"}
        before = read_stream(checkpoint, root, planned[0] if planned else None)
        self._next = before.next_round
        self.known = set(before.finished)
        self.unfinished: PlannedRound | None = None
        if before.unfinished is not None and not planned:
            self.unfinished = PlannedRound(before.next_round - 1, [ImageRef(path) for path in before.unfinished])
            self.known.update(before.unfinished)
        expected = list(range(planned[0], planned[0] + len(planned))) if planned else []
        open_rounds = [number for number in planned if number not in done]
        if planned != expected or open_rounds not in ([], planned[-1:]) or not done <= set(planned):
            raise CheckpointError(
                f"{self._folder} has rounds {planned}, of which {sorted(done)} are done; expected consecutive numbers, "
                "all done but the last"
            )
        with ThreadPoolExecutor(_READERS) as pool:
            rounds = dict(zip(planned, pool.map(self._read_plan, planned), strict=True))
            self.notes: dict[int, Mapping[str, Any]] = dict(
                zip(sorted(done), pool.map(self._read_notes, sorted(done)), strict=True)
            )
        for number, items in rounds.items():
            self.known.update(item.key for item in items)
            self._next = number + 1
        if open_rounds:
            self.unfinished = PlannedRound(planned[-1], rounds[planned[-1]])

    def plan(self, items: Sequence[ImageRef]) -> PlannedRound:
        """Write the next round to the log, before it is processed, and return it."""
        planned = PlannedRound(self._next, items)
        self._write_plan(planned)
        self.known.update(item.key for item in items)
        self._next += 1
        return planned

    def finish(self, planned: PlannedRound, notes: Mapping[str, Any]) -> None:
        """Record that the table of a round is written.

        Args:
            planned: the round.
            notes: facts of the round, JSON values by name.
        """
        if self.unfinished is not None:
            self.unfinished = None
            self._write_plan(planned)  # also for a round that Spark's stream has planned
        storage.write_text(storage.join(self._folder, f"{planned.number}.done"), json.dumps(notes) + "\n")
        self.notes[planned.number] = notes

    def _write_plan(self, planned: PlannedRound) -> None:
        sink = io.BytesIO()
        pq.write_table(refs.to_table(planned.items), sink, compression="zstd")
        storage.write_bytes(storage.join(self._folder, f"{planned.number}.parquet"), sink.getvalue())

    def _read_plan(self, number: int) -> list[ImageRef]:
        location = storage.join(self._folder, f"{number}.parquet")
        try:
            table = pq.read_table(pa.BufferReader(storage.read_bytes(location)))
            return refs.from_table(table.select(HANDLE.names).cast(HANDLE))
        except (pa.ArrowException, KeyError, OSError) as error:
            raise CheckpointError(f"{location} is damaged: {error}") from error

    def _read_notes(self, number: int) -> Mapping[str, Any]:
        location = storage.join(self._folder, f"{number}.done")
        try:
            notes = json.loads(storage.read_bytes(location))
        except (ValueError, OSError) as error:
            raise CheckpointError(f"{location} is damaged: {error}") from error
        if not isinstance(notes, dict):
            raise CheckpointError(f"{location} holds a {type(notes).__name__}; expected an object")
        return notes
