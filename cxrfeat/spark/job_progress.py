"""A live bar for a running job: done of total, rate, quarantined, time left."""

from __future__ import annotations

import functools
import threading
from types import TracebackType
from typing import Any

from pyspark import Accumulator, SparkContext
from tqdm import tqdm

_REFRESH_S = 1.0


class JobProgress:
    """Counts that workers add to when a task ends, and the bar that shows them; use it as a context manager.

    Only for the eye: a task that Spark repeats is counted again. What is true is in the table.
    """

    def __init__(
        self,
        context: SparkContext,
        *,
        total: int | None = None,
        done: int = 0,
        unit: str = "film",
        watching: bool = False,
    ) -> None:
        """Make the counters; the bar is drawn on entry.

        Args:
            context: whose workers count.
            total: of all there is, None where nobody knows.
            done: before.
            unit: what is counted.
            watching: the job goes on for days: nothing is drawn while nothing happens, or it would fill a log.
        """
        self.done: Accumulator[int] = context.accumulator(0)
        self.quarantined: Accumulator[int] = context.accumulator(0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._refresh_until_stopped, name="progress", daemon=True)
        # spark-submit hands our output on through a pipe, so the width can't be asked for.
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
            self._bar.refresh()  # the clock goes on
