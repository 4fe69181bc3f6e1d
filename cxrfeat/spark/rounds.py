"""Process items in rounds, each committed exactly once; both jobs are built on it.

The driver lists the items, and writes each round to the log before the round is processed; a round overwrites its own
folder. So a job that is killed at any moment and restarted repeats at most the round that was running, with the same
items and into the same folder: see :mod:`cxrfeat.io.round_log`.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from py4j.protocol import Py4JError
from pyspark import InheritableThread
from pyspark.errors import PySparkException, PythonException
from pyspark.sql import DataFrame, SparkSession

from cxrfeat.errors import ConfigError, WorkerError
from cxrfeat.io import refs
from cxrfeat.io.refs import ImageRef, is_whole
from cxrfeat.io.round_log import PlannedRound, RoundLog

TYPICAL_IMAGE_BYTES = 400_000
"""Mean size of an NIH image, for the number of images in a container without an index."""


_POLL_S = 0.1
_CANCEL_S = 30


@dataclass(frozen=True)
class RoundPlan:
    """Settings of the rounds.

    Attributes:
        size: maximum number of images per round; a container without an index is never divided.
        watch: seconds between listings, or None to stop after the items that exist now.
        slots: number of tasks that run at the same time; a round has as many containers without an index.
    """

    size: int
    watch: float | None = None
    slots: int = 1

    def __post_init__(self) -> None:
        """Raise ConfigError if the size is below 1 or the watch interval is not positive."""
        if self.size < 1:
            raise ConfigError(f"round size {self.size}; expected at least 1 file")
        if self.watch is not None and self.watch <= 0:
            raise ConfigError(f"watch interval {self.watch} s; expected more than 0")


Commit = Callable[[Sequence[ImageRef], int], Mapping[str, Any]]
"""Function that processes the items of a round, overwrites the round's folder, and returns notes for the log."""


def run_interruptibly(spark: SparkSession, work: Callable[[threading.Event], None]) -> None:
    """Do work that calls the JVM, and stop it when the main thread is interrupted.

    The work has a thread of its own: an interrupt during a call to the JVM would break the connection to it.

    Args:
        spark: session that runs the work's jobs.
        work: function that receives the event that stops it.

    Raises:
        BaseException: whatever the work raises, unchanged.
    """
    stop, ended = threading.Event(), threading.Event()
    failure: list[BaseException] = []
    group = f"rounds-{uuid.uuid4()}"

    def run() -> None:
        try:
            spark.sparkContext.setJobGroup(group, "rounds", interruptOnCancel=True)
            work(stop)
        except BaseException as error:  # raised again by the thread that waits
            failure.append(error)
        finally:
            ended.set()

    InheritableThread(run, daemon=True).start()
    try:
        while not ended.wait(_POLL_S):  # Thread.join takes a thread for ended when it is interrupted (CPython 3.11)
            pass
    except BaseException:
        stop.set()
        deadline = time.monotonic() + _CANCEL_S
        with contextlib.suppress(Py4JError, OSError):  # Ctrl-C reaches the JVM as well, which may end first
            while not ended.is_set() and time.monotonic() < deadline:
                spark.sparkContext.cancelJobGroup(group)  # again, because the work may be about to start a job
                ended.wait(_POLL_S)
        raise
    if failure:
        raise failure[0]


def run_rounds(
    log: RoundLog,
    plan: RoundPlan,
    list_new: Callable[[Set[str]], Sequence[ImageRef]],
    commit: Commit,
    stop: threading.Event | None = None,
) -> None:
    """Commit all pending rounds; with ``watch``, continue until interrupted.

    Args:
        log: the log of the output folder.
        plan: settings of the rounds.
        list_new: function from the keys of all planned items to the items that are not among them.
        commit: function that processes a round.
        stop: event that ends the work before the next round.

    Raises:
        WorkerError: a task failed; the message is the innermost cause. The next run repeats the round.
        Exception: ``commit`` raised it, and it is passed on unchanged.
    """
    stop = stop or threading.Event()
    if log.unfinished is not None:
        _commit(log, log.unfinished, commit)
    while not stop.is_set():
        for items in cut_rounds(list_new(log.known), plan):
            if stop.is_set():
                return
            _commit(log, log.plan(items), commit)
        if plan.watch is None:
            return
        stop.wait(plan.watch)


def _commit(log: RoundLog, planned: PlannedRound, commit: Commit) -> None:
    try:
        notes = commit(planned.items, planned.number)
    except (PySparkException, Py4JError) as error:
        raise WorkerError(f"a task failed: {_innermost_cause(error)}") from error
    log.finish(planned, notes)


def cut_rounds(items: Sequence[ImageRef], plan: RoundPlan) -> Iterator[Sequence[ImageRef]]:
    """Yield the items round by round, sorted by their keys.

    Files and members come first. Containers without an index are in rounds of their own, because their images are
    counted only when they are read: one for each task slot, and more while they are small.
    """
    ordered = sorted(items, key=lambda item: item.key)
    single = [item for item in ordered if not is_whole(item)]
    for start in range(0, len(single), plan.size):
        yield single[start : start + plan.size]
    group: list[ImageRef] = []
    images = 0
    for item in filter(is_whole, ordered):
        expected = estimate_images([item])
        if len(group) >= plan.slots and images + expected > plan.size:
            yield group
            group, images = [], 0
        group.append(item)
        images += expected
    if group:
        yield group


def estimate_images(items: Sequence[ImageRef]) -> int:
    """Return the number of images in the items; those in containers without an index are estimated by their size."""
    return sum(max(1, (item.length or 0) // TYPICAL_IMAGE_BYTES) if is_whole(item) else 1 for item in items)


def to_handles(spark: SparkSession, items: Sequence[ImageRef]) -> DataFrame:
    """Return the items as a table of :data:`cxrfeat.io.schema.HANDLE`."""
    return spark.createDataFrame(refs.to_table(items))


def _innermost_cause(error: Exception) -> str:
    """Return the line of an error that is most useful to users.

    It is the last line of a worker's traceback, which Spark passes on as text, or the last cause of a Java exception.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, PythonException):
        return [line for line in lines if not line.startswith("JVM stacktrace")][-1]
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    return causes[-1] if causes else lines[0]
