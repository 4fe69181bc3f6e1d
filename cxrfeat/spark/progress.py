"""A live bar for a running job: done of total, rate, quarantined, time left."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any

from pyspark import Accumulator, SparkContext
from tqdm import tqdm

_REFRESH_S = 0.5


class Progress:
    """Counts that workers add to when a task ends, and the bar that shows them; use it as a context manager.

    Only for the eye: a task that Spark repeats is counted again. What is true is in the table.
    """

    def __init__(self, context: SparkContext, *, total: int | None, done: int = 0, unit: str = "img") -> None:
        """Make the counters; ``total`` None means that nobody knows (a watched folder)."""
        self.done: Accumulator[int] = context.accumulator(0)
        self.quarantined: Accumulator[int] = context.accumulator(0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._refresh_until_stopped, name="progress", daemon=True)
        # spark-submit hands our output on through a pipe, so the width can't be asked for.
        self._bar: tqdm[Any] = tqdm(
            total=total, initial=done, unit=unit, ncols=100, mininterval=_REFRESH_S, smoothing=0.1
        )
        self._done_before = done
        self._shown: tuple[int, int] | None = None

    def __enter__(self) -> Progress:
        """Show the bar."""
        self._thread.start()
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        """Show the last counts and leave the bar on the screen."""
        self._stop.set()
        self._thread.join()
        self._refresh()
        self._bar.close()

    def _refresh_until_stopped(self) -> None:
        while not self._stop.wait(_REFRESH_S):
            self._refresh()

    def _refresh(self) -> None:
        counts = (self.done.value, self.quarantined.value)
        if self._bar.total is None and counts == self._shown:
            return  # a job that watches for days must not fill its log
        self._shown = counts
        self._bar.set_postfix(quarantined=counts[1], refresh=False)
        self._bar.update(self._done_before + counts[0] - self._bar.n)
