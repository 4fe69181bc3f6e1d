"""Read the checkpoint of Spark's file stream, which planned the rounds of older outputs; nothing is written to it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from cxrfeat.errors import CheckpointError
from cxrfeat.io import storage
from cxrfeat.io.file_names import to_text

_LOG_VERSION = "v1"
"""First line of every file of the checkpoint, as Spark 4.3 writes them."""

_SOURCE = re.compile(r"(\d+)(\.compact)?")


class StreamRounds(NamedTuple):
    """Rounds that a stream has planned.

    Attributes:
        next_round: number of the first round that it has not planned.
        finished: paths of the files in finished rounds, relative to the root.
        unfinished: sorted paths of the round that is planned and not finished, or None.
    """

    next_round: int
    finished: Sequence[str]
    unfinished: Sequence[str] | None


def read_stream(checkpoint: str, root: str, taken_over: int | None = None) -> StreamRounds:
    """Return the rounds in a checkpoint; none if no stream has written to it.

    Args:
        checkpoint: qualified location of the checkpoint.
        root: qualified root of the files.
        taken_over: number of the first round that is in a log of our own; it and all later ones are left out.

    Raises:
        CheckpointError: a file of the checkpoint is missing, damaged, or of another version.
    """
    planned = [int(name) for name in storage.list_names(f"{checkpoint}/offsets") if name.isdecimal()]
    if taken_over is not None:
        planned = [number for number in planned if number < taken_over]
    if not planned:
        if taken_over:
            raise CheckpointError(f"{checkpoint}/offsets has no round below {taken_over}; expected all of them")
        return StreamRounds(0, [], None)
    last = max(planned)
    done = taken_over is not None or str(last) in storage.list_names(f"{checkpoint}/commits")
    try:
        end = _offset_of(checkpoint, last)
        finished_end = end if done else (_offset_of(checkpoint, last - 1) if last else -1)
        entries = _read_entries(f"{checkpoint}/sources/0")
        paths = [(_relative(entry["path"], root), int(entry["batchId"])) for entry in entries]
    except (ValueError, KeyError, TypeError) as error:  # invalid JSON, or unexpected contents
        raise CheckpointError(f"{checkpoint} is damaged: {error!r}") from error
    finished = [path for path, offset in paths if offset <= finished_end]
    unfinished = sorted(path for path, offset in paths if finished_end < offset <= end)
    return StreamRounds(last + 1, finished, None if done else unfinished)


def _relative(uri: str, root: str) -> str:
    return to_text(storage.relative_to(storage.from_spark(uri), root).encode())


def _offset_of(checkpoint: str, number: int) -> int:
    """Return the last offset of the stream's list of files that belongs to a round."""
    return int(json.loads(_read_lines(f"{checkpoint}/offsets/{number}")[-1])["logOffset"])


def _read_entries(folder: str) -> list[dict[str, Any]]:
    """Return the entries of the stream's list of files: of the last compacted file, and of all files after it."""
    names = [match for match in map(_SOURCE.fullmatch, storage.list_names(folder)) if match]
    compacted = max((int(match[1]) for match in names if match[2]), default=-1)
    files = [f"{compacted}.compact"] if compacted >= 0 else []
    files += sorted((match[0] for match in names if not match[2] and int(match[1]) > compacted), key=int)
    return [json.loads(line) for name in files for line in _read_lines(f"{folder}/{name}")]


def _read_lines(location: str) -> list[str]:
    """Return the lines of a file after its version line."""
    text = storage.read_text(location)
    if text is None:
        raise CheckpointError(f"{location} does not exist; expected a file of Spark's checkpoint")
    version, *lines = text.removesuffix("\n").split("\n")
    if version != _LOG_VERSION or not lines:
        raise CheckpointError(f"{location} starts with {version!r}; expected {_LOG_VERSION!r} and at least one line")
    return lines
