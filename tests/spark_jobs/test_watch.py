"""A job that watches a folder for a long time: every image once, and memory that does not grow."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pyarrow.dataset as pads
import pytest

from cxrfeat.phantom.archive import write_archive
from tests.spark_jobs import jobs

BATCHES, IMAGES = 10, 10
WARM = 4
"""Batches after which everything is loaded."""

DEADLINE_S = 300


@pytest.mark.slow
@pytest.mark.spark
def test_images_come_in_batches(tmp_path: Path) -> None:
    """While the job watches, images are moved in; each is embedded once, and Python's memory does not grow."""
    write_archive(tmp_path / "drawn", BATCHES * IMAGES, size=64)
    images = sorted((tmp_path / "drawn").rglob("*.png"))
    assert len(images) == BATCHES * IMAGES
    watched, output = tmp_path / "in", tmp_path / "out"
    watched.mkdir()
    options = ["--images", str(watched), "--output", str(output), "--weights", "random", "--watch", "0.5"]
    options += ["--batch-size", "2"]
    memory: list[int] = []
    with jobs.start("extract", *options) as process:
        try:
            for batch in range(BATCHES):
                for image in images[batch * IMAGES : (batch + 1) * IMAGES]:
                    image.rename(watched / image.name)
                wait_for_images(process, output, (batch + 1) * IMAGES)
                memory.append(python_memory(process.pid))
        finally:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal sends Ctrl-C
        printed, _ = process.communicate()
    assert process.returncode == 130, printed
    table = pads.dataset(str(output / "embeddings"), partitioning="hive").to_table()
    assert sorted(table["image_index"].to_pylist()) == sorted(image.name for image in images)
    assert set(table["status"].to_pylist()) == {"ok"}
    assert memory[-1] <= 1.01 * memory[WARM], [size // 2**10 for size in memory]


def wait_for_images(process: subprocess.Popen[str], output: Path, count: int) -> None:
    """Wait until the job's summary counts this many images."""
    deadline = time.monotonic() + DEADLINE_S
    summary = output / "summary.json"
    while not summary.exists() or json.loads(summary.read_text())["images"]["ok"] < count:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"{count} images never came"
        time.sleep(0.1)


def python_memory(pid: int) -> int:
    """Return the memory of a job's Python processes, in bytes, without the JVM, whose heap has a limit.

    Shared pages are left out, because other processes with the same libraries would change their count. The rest moves
    by less than one part in ten thousand, so that a leak shows in a few batches.
    """
    size = 0
    for member in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # ended since it was listed
            memory = member.memory_info()
            size += memory.rss - memory.shared if member.name().startswith("python") else 0
    return size
