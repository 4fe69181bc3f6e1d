"""The shape of both jobs: a file stream of handles, cut into rounds, each committed once.

Spark's file stream remembers which files it has seen and which round each belongs to, in the checkpoint, before
the round is worked on. A round overwrites its own folder. So a job that was killed at any moment and is started
again repeats at most the round it was in, with the same files, to the same place.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
from py4j.protocol import Py4JError, Py4JJavaError
from pyspark.errors import PySparkException, PythonException
from pyspark.sql import DataFrame, SparkSession

from cxrfeat.errors import CheckpointError, ConfigError, WorkerError
from cxrfeat.io import storage
from cxrfeat.io.schema import HANDLE

_FILE_SCHEMA = "path STRING, modificationTime TIMESTAMP, length BIGINT, content BINARY"
"""Of Spark's binaryFile source; nothing of it is ever read here, the stream only lists."""

_GLOB_SIGNS = re.compile(r"[\\\[\]{}*?]")

_LOG_VERSION = "v1"
"""First line of the files in the checkpoint that are read here, as of Spark 4.3."""

_POLL_S = 0.1

_FOR_EVER = "36500d"
"""The stream forgets and ignores files that are older than its newest by more than this; its default is a week."""


@dataclass(frozen=True)
class Rounds:
    """Where files come from and how they are cut into rounds.

    Attributes:
        source: qualified folder that is searched at any depth.
        suffixes: of the names that count, in lower case, with the dot.
        checkpoint: folder of the stream's memory.
        size: files a round at most.
        watch: seconds between looks at the folder, or None to stop when all files that are there are done.
    """

    source: str
    suffixes: tuple[str, ...]
    checkpoint: str
    size: int
    watch: float | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError for a size below 1 or a watch interval that is not positive."""
        if self.size < 1:
            raise ConfigError(f"round size {self.size}; expected at least 1 file")
        if self.watch is not None and self.watch <= 0:
            raise ConfigError(f"watch interval {self.watch} s; expected more than 0")


Commit = Callable[[Sequence[str], int], None]
"""Turns the files of a round into its folder, overwriting what is there."""


def run_rounds(spark: SparkSession, rounds: Rounds, commit: Commit) -> None:
    """Commit every round that is due; with ``watch``, go on until interrupted.

    Raises:
        WorkerError: a task, or the stream itself, failed; the message is the innermost cause.
        Exception: whatever else ``commit`` raised, as it was raised. The round is not committed and will be repeated.
    """
    failure: list[Exception] = []

    def commit_round(_: DataFrame, round_id: int) -> None:
        try:
            commit(files_of_round(rounds.checkpoint, round_id), round_id)
        except Exception as error:
            failure.append(error)
            raise

    stream = (
        spark.readStream.format("binaryFile")
        .schema(_FILE_SCHEMA)
        .option("recursiveFileLookup", True)
        .option("pathGlobFilter", _glob(rounds.suffixes))
        .option("maxFilesPerTrigger", rounds.size)
        .option("maxFileAge", _FOR_EVER)
        # A file that is gone by the time its round starts is not ignored: its handle comes from the stream's log.
        .option("ignoreMissingFiles", True)
        .load(_GLOB_SIGNS.sub(r"\\\g<0>", storage.to_spark(rounds.source)))  # a folder, not a pattern
    )
    writer = stream.writeStream.foreachBatch(commit_round).option(
        "checkpointLocation", storage.to_spark(rounds.checkpoint)
    )
    trigger = {"availableNow": True} if rounds.watch is None else {"processingTime": f"{rounds.watch} seconds"}
    try:
        query = writer.trigger(**trigger).start()
    except (PySparkException, Py4JJavaError) as error:
        raise WorkerError(f"the stream of files failed: {_innermost_cause(error)}") from error
    try:
        # Not awaitTermination: an interrupt in the middle of a call to the JVM would leave its connection broken.
        while query.isActive:
            time.sleep(_POLL_S)
    finally:
        # Ctrl-C reaches the JVM as well, which may be gone before us.
        with contextlib.suppress(Py4JError):
            query.stop()
    if failure and isinstance(failure[0], PySparkException | Py4JJavaError):
        raise WorkerError(f"a task failed: {_innermost_cause(failure[0])}") from failure[0]
    if failure:
        raise failure[0]
    stopped = query.exception()
    if stopped is not None:
        raise WorkerError(f"the stream of files failed: {_innermost_cause(stopped)}") from stopped


def to_handles(spark: SparkSession, files: Sequence[str]) -> DataFrame:
    """Return a table of :data:`cxrfeat.io.schema.HANDLE`."""
    return spark.createDataFrame(pa.table({"uri": files}, schema=HANDLE))


def files_of_round(checkpoint: str, round_id: int) -> list[str]:
    """Return the files that the stream gave to a round, qualified and sorted.

    They are read from the stream's log and not from the round's DataFrame, which leaves out empty files and files that
    have vanished since they were listed: both must end up in quarantine, not nowhere.

    Raises:
        CheckpointError: the log is not as Spark writes it.
    """
    try:
        first, last = _log_offset(checkpoint, round_id - 1) + 1, _log_offset(checkpoint, round_id)
        entries = [entry for offset in range(first, last + 1) for entry in _log_entries(checkpoint, offset)]
        return sorted(storage.from_spark(entry["path"]) for entry in entries)
    except (ValueError, KeyError, TypeError) as error:  # no JSON, or another
        raise CheckpointError(f"{checkpoint}: the log of round {round_id} is damaged: {error!r}") from error


def _log_offset(checkpoint: str, round_id: int) -> int:
    """Return how far into the file log a round reaches: the last line of Spark's offsets file."""
    if round_id < 0:
        return -1
    lines = _read_log(f"{checkpoint}/offsets/{round_id}")
    return int(json.loads(lines[-1])["logOffset"])


def _log_entries(checkpoint: str, offset: int) -> list[dict[str, str]]:
    """Return what was seen at one offset: it has a file of its own, or is in OFFSET.compact with all before it."""
    log = f"{checkpoint}/sources/0/{offset}"
    lines = _read_log(log if storage.exists(log) else f"{log}.compact")
    return [entry for entry in map(json.loads, lines) if entry["batchId"] == offset]


def _read_log(location: str) -> list[str]:
    """Return the lines of one of Spark's log files after its version."""
    text = storage.read_text(location)
    if text is None:
        raise CheckpointError(f"{location} is not there; expected a file of Spark's log")
    version, *lines = text.splitlines() or [""]
    if version != _LOG_VERSION or not lines:
        raise CheckpointError(f"{location} starts with {version!r}; expected {_LOG_VERSION!r} and at least one line")
    return lines


def _innermost_cause(error: Exception) -> str:
    """Return the line that a user can do something with.

    Of a worker's traceback, which Spark passes on as text, that is the last line; of Java's, the last cause.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, PythonException):
        return [line for line in lines if not line.startswith("JVM stacktrace")][-1]
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    return causes[-1] if causes else lines[0]


def _glob(suffixes: tuple[str, ...]) -> str:
    """Match names by suffix whatever their case: ``*{.[pP][nN][gG],.[jJ][pP][gG]}``."""
    return "*{" + ",".join("".join(f"[{c}{c.upper()}]" if c.isalpha() else c for c in s) for s in suffixes) + "}"
