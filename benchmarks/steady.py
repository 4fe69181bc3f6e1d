"""Definition of the steady rate, the same for every contender.

A contender writes a mark for each batch of finished embeddings; those of our Spark job are spread over its tasks.
Start-up ends with the first mark by which a fifth of the images is finished. The steady rate is the number of images
after that mark, divided by the time from it to the last mark. No mark waits for the last Parquet file; in a job of
several rounds, marks wait for the files of all rounds but the last.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

WARM_UP = 0.2
"""Share of the images that counts as start-up."""


@dataclass(frozen=True, order=True)
class Mark:
    """A number of images finished at a time, in seconds since the epoch."""

    time: float
    images: int


def mark(path: str | None, images: int) -> None:
    """Append a mark with the present time to a file; any number of processes may write to the same one."""
    if path is None:
        return
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(handle, f"{time.time()!r} {images}\n".encode())  # one write in append mode: lines never mix
    finally:
        os.close(handle)


def read_marks(path: Path) -> list[Mark]:
    """Read the marks of a file, in order of time."""
    lines = (line.split() for line in path.read_text().splitlines())
    return sorted(Mark(float(seconds), int(images)) for seconds, images in lines)


def steady_rate(marks: Sequence[Mark]) -> float:
    """Return images/s after start-up.

    Raises:
        ValueError: no mark is left after start-up.
    """
    ordered = sorted(marks)
    done = list(accumulate(mark.images for mark in ordered))
    start = next((index for index, images in enumerate(done) if images >= WARM_UP * done[-1]), 0)
    if not ordered or ordered[-1].time <= ordered[start].time:
        raise ValueError(f"{len(ordered)} marks; expected at least two, the last one after start-up")
    return (done[-1] - done[start]) / (ordered[-1].time - ordered[start].time)
