"""Process a stream of files in rounds, each committed exactly once; both jobs are built on it.

Spark's file stream records in its checkpoint which files belong to a round before the round is processed, and a round
overwrites its own folder. So a job that is killed at any moment and restarted repeats at most the round that was
running, with the same files and into the same folder.
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
"""Schema of Spark's binaryFile source. No column is read here: the stream only lists files."""

_GLOB_CHARACTERS = re.compile(r"[\\\[\]{}*?]")

_LOG_VERSION = "v1"
"""First line of the checkpoint files that are read here, as of Spark 4.3."""

_POLL_S = 0.1

_MAX_FILE_AGE = "36500d"
"""Age, relative to the newest file, above which the stream ignores files. Spark's default is a week."""


@dataclass(frozen=True)
class Rounds:
    """Settings of a file stream that is split into rounds.

    Attributes:
        source: qualified folder that is searched at any depth.
        suffixes: accepted file name suffixes, in lower case, with the dot.
        checkpoint: folder of the stream's state.
        size: maximum number of files per round.
        watch: seconds between scans of the folder, or None to stop after the files that exist now.
    """

    source: str
    suffixes: tuple[str, ...]
    checkpoint: str
    size: int
    watch: float | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError if the size is below 1 or the watch interval is not positive."""
        if self.size < 1:
            raise ConfigError(f"round size {self.size}; expected at least 1 file")
        if self.watch is not None and self.watch <= 0:
            raise ConfigError(f"watch interval {self.watch} s; expected more than 0")


Commit = Callable[[Sequence[str], int], None]
"""Function that processes the files of a round and overwrites the round's folder."""


def run_rounds(spark: SparkSession, rounds: Rounds, commit: Commit) -> None:
    """Commit all pending rounds; with ``watch``, continue until interrupted.

    Raises:
        WorkerError: a task, or the stream itself, failed; the message is the innermost cause.
        Exception: ``commit`` raised it, and it is passed on unchanged. The next run repeats the round.
    """
    failure: list[Exception] = []

    def commit_round(_: DataFrame, round_id: int) -> None:
        try:
            commit(list_round_files(rounds.checkpoint, round_id), round_id)
        except Exception as error:
            failure.append(error)
            raise

    stream = (
        spark.readStream.format("binaryFile")
        .schema(_FILE_SCHEMA)
        .option("recursiveFileLookup", True)
        .option("pathGlobFilter", _glob(rounds.suffixes))
        .option("maxFilesPerTrigger", rounds.size)
        .option("maxFileAge", _MAX_FILE_AGE)
        # A file that vanishes before its round starts is still processed: its path comes from the stream's log.
        .option("ignoreMissingFiles", True)
        .load(_GLOB_CHARACTERS.sub(r"\\\g<0>", storage.to_spark(rounds.source)))  # a folder, not a pattern
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
        # Not awaitTermination: an interrupt during a call to the JVM would break the connection to it.
        while query.isActive:
            time.sleep(_POLL_S)
    finally:
        # Ctrl-C reaches the JVM as well, which may end before this process.
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
    """Return the files as a table of :data:`cxrfeat.io.schema.HANDLE`."""
    return spark.createDataFrame(pa.table({"uri": files}, schema=HANDLE))


def list_round_files(checkpoint: str, round_id: int) -> list[str]:
    """Return the files that the stream assigned to a round, qualified and sorted.

    They are read from the stream's log, because the round's DataFrame leaves out empty files and files that have
    vanished since they were listed. Both must appear in the quarantine.

    Raises:
        CheckpointError: the log is missing or damaged.
    """
    try:
        first, last = _log_offset(checkpoint, round_id - 1) + 1, _log_offset(checkpoint, round_id)
        entries = [entry for offset in range(first, last + 1) for entry in _log_entries(checkpoint, offset)]
        return sorted(storage.from_spark(entry["path"]) for entry in entries)
    except (ValueError, KeyError, TypeError) as error:  # invalid JSON, or unexpected contents
        raise CheckpointError(f"{checkpoint}: the log of round {round_id} is damaged: {error!r}") from error


def _log_offset(checkpoint: str, round_id: int) -> int:
    """Return the last file log offset of a round, from the last line of Spark's offsets file."""
    if round_id < 0:
        return -1
    lines = _read_log(f"{checkpoint}/offsets/{round_id}")
    return int(json.loads(lines[-1])["logOffset"])


def _log_entries(checkpoint: str, offset: int) -> list[dict[str, str]]:
    """Return the log entries of one offset, from its own file or from OFFSET.compact, which has all before it too."""
    log = f"{checkpoint}/sources/0/{offset}"
    lines = _read_log(log if storage.exists(log) else f"{log}.compact")
    return [entry for entry in map(json.loads, lines) if entry["batchId"] == offset]


def _read_log(location: str) -> list[str]:
    """Return the lines of a Spark log file after its version line."""
    text = storage.read_text(location)
    if text is None:
        raise CheckpointError(f"{location} does not exist; expected a file of Spark's checkpoint")
    version, *lines = text.splitlines() or [""]
    if version != _LOG_VERSION or not lines:
        raise CheckpointError(f"{location} starts with {version!r}; expected {_LOG_VERSION!r} and at least one line")
    return lines


def _innermost_cause(error: Exception) -> str:
    """Return the line of an error that is most useful to users.

    It is the last line of a worker's traceback, which Spark passes on as text, or the last cause of a Java exception.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, PythonException):
        return [line for line in lines if not line.startswith("JVM stacktrace")][-1]
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    return causes[-1] if causes else lines[0]


def _glob(suffixes: tuple[str, ...]) -> str:
    """Return a case-insensitive glob pattern for suffixes: ``*{.[pP][nN][gG],.[jJ][pP][gG]}``."""
    return "*{" + ",".join("".join(f"[{c}{c.upper()}]" if c.isalpha() else c for c in s) for s in suffixes) + "}"
