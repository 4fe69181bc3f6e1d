"""Progress bar of a running job: done of total, rate, quarantined, time left."""

from __future__ import annotations

import functools
import threading
from types import TracebackType
from typing import Any

from pyspark import Accumulator, SparkContext
from tqdm import tqdm

_REFRESH_S = 1.0


class JobProgress:
    """Context manager that shows a bar of the counts that workers report at the end of each task.

    The counts are approximate, because a task that Spark repeats is counted again. The table has the exact numbers.
    """

    def __init__(
        self,
        context: SparkContext,
        *,
        total: int | None = None,
        done: int = 0,
        unit: str = "image",
        watching: bool = False,
    ) -> None:
        """Create the counters; the bar appears when the context is entered.

        Args:
            context: Spark context whose workers count.
            total: number of items in all, or None if unknown.
            done: number of items that earlier runs have completed.
            unit: name of one item.
            watching: redraw the bar only when a count changes, so that a job that runs for days does not fill a log.
        """
        self.done: Accumulator[int] = context.accumulator(0)
        self.quarantined: Accumulator[int] = context.accumulator(0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._refresh_until_stopped, name="progress", daemon=True)
        # spark-submit passes our output through a pipe, so the terminal's width is unknown.
        self._make_bar = functools.partial(
            tqdm, total=total, initial=done, unit=unit, ncols=100, mininterval=_REFRESH_S, smoothing=0.1
        )
        self._done_before = done
        self._watching = watching
        self._shown: tuple[int, int] | None = None

    def __enter__(self) -> JobProgress:
        """Show the bar."""
        self._bar: tqdm[Any] = self._make_bar()
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
        if self._watching and counts == self._shown:
            return
        self._shown = counts
        self._bar.set_postfix(quarantined=counts[1], refresh=False)
        if not self._bar.update(self._done_before + counts[0] - self._bar.n):
            self._bar.refresh()  # keeps the elapsed time running
