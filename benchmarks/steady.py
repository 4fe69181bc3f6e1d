"""What "steady" means, for every contender alike.

A contender marks each batch of films when its embeddings are there, our Spark job's are spread over its tasks. Start-up is over with the
first mark by which a fifth of the films is done; the steady rate is what comes after it, divided by the time until the last
mark. Nobody's marks wait for the last Parquet file; those of a job of several rounds wait for all rounds' but the last.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

WARM_UP = 0.2
"""Share of the films that start-up may take."""


@dataclass(frozen=True, order=True)
class Mark:
    """So many films were finished at that time, in seconds since the epoch."""

    time: float
    films: int


def mark(path: str | None, films: int) -> None:
    """Note that ``films`` are finished now; any number of processes may write to one file."""
    if path is None:
        return
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(handle, f"{time.time()!r} {films}\n".encode())  # one write in append mode: lines never mix
    finally:
        os.close(handle)


def read_marks(path: Path) -> list[Mark]:
    """Read what :func:`mark` wrote, in the order of time."""
    lines = (line.split() for line in path.read_text().splitlines())
    return sorted(Mark(float(seconds), int(films)) for seconds, films in lines)


def steady_rate(marks: Sequence[Mark]) -> float:
    """Return the films/s after start-up.

    Raises:
        ValueError: no film is left after start-up: there are too few marks.
    """
    ordered = sorted(marks)
    done = list(accumulate(mark.films for mark in ordered))
    start = next((index for index, films in enumerate(done) if films >= WARM_UP * done[-1]), 0)
    if not ordered or ordered[-1].time <= ordered[start].time:
        raise ValueError(f"{len(ordered)} marks; expected at least two, the last one after start-up")
    return (done[-1] - done[start]) / (ordered[-1].time - ordered[start].time)
