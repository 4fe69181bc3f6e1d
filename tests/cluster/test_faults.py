"""Failures in the middle of a round: afterwards every image has one row, or a clear error is followed by a rerun."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from pyspark.sql import SparkSession

from cxrfeat.errors import WorkerError
from cxrfeat.spark.extract import extract
from tests.cluster.conftest import without_overrides
from tests.cluster.encoders import Call, Recorder
from tests.cluster.films import check_each_once, config, write_images
from tests.cluster.standalone import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.spark]

IMAGES = 160
"""In two rounds; with 30 images the first is on its way, with 110 the second."""

DEADLINE_S = 600
"""After which images never come; a busy machine may take minutes to import torch in every worker."""


@contextlib.contextmanager
def in_the_middle(
    recorder: Recorder, break_something: Callable[[list[Call]], None], *, images: int = 110
) -> Iterator[None]:
    """Break something as soon as this many images have gone through the network."""
    deadline = time.monotonic() + DEADLINE_S

    def wait_and_break() -> None:
        while sum(call.images for call in recorder.calls()) < images:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{images} images never came; {recorder.calls()}")
            time.sleep(0.01)
        break_something(recorder.calls())

    with ThreadPoolExecutor(1) as pool:
        broken = pool.submit(wait_and_break)
        yield
        broken.result()


def embedded_twice(recorder: Recorder) -> bool:
    """Return True if some work was repeated, so that the failure had an effect."""
    return sum(call.images for call in recorder.calls()) > IMAGES


def test_an_executor_dies(cluster: Cluster, on_cluster: SparkSession, tmp_path: Path, recorder: Recorder) -> None:
    """Its tasks are done again elsewhere."""
    write_images(tmp_path / "in", IMAGES)
    with in_the_middle(recorder, lambda calls: executor_of(cluster, calls).kill()):
        extract(on_cluster, config(tmp_path), recorder)
    check_each_once(tmp_path / "out", IMAGES)
    assert embedded_twice(recorder)


def test_a_worker_daemon_dies(cluster: Cluster, on_cluster: SparkSession, tmp_path: Path, recorder: Recorder) -> None:
    """Its executor goes with it; the other worker does the rest, and a new one joins the same job."""
    write_images(tmp_path / "in", IMAGES)
    with in_the_middle(recorder, lambda _: cluster.kill_worker(1)):
        extract(on_cluster, config(tmp_path), recorder)
    check_each_once(tmp_path / "out", IMAGES)
    assert embedded_twice(recorder)
    cluster.restart_worker(1)


def test_a_python_worker_dies(cluster: Cluster, on_cluster: SparkSession, tmp_path: Path, recorder: Recorder) -> None:
    """Its task is done again; its executor lives on."""
    write_images(tmp_path / "in", IMAGES)
    executors = [executor.pid for executor in cluster.executors(0)]
    with in_the_middle(recorder, lambda calls: worker_of(cluster, calls).kill()):
        extract(on_cluster, config(tmp_path), recorder)
    check_each_once(tmp_path / "out", IMAGES)
    assert embedded_twice(recorder)
    assert [executor.pid for executor in cluster.executors(0)] == executors


def test_a_task_straggles(cluster: Cluster, on_cluster: SparkSession, tmp_path: Path, recorder: Recorder) -> None:
    """With speculation, the task of a suspended worker is copied; the images of both are in the table once."""
    write_images(tmp_path / "in", IMAGES)
    stopped: list[psutil.Process] = []

    def stop(calls: list[Call]) -> None:
        stopped.append(worker_of(cluster, calls))
        stopped[0].suspend()

    with in_the_middle(recorder, stop):
        extract(on_cluster, config(tmp_path), recorder)
    check_each_once(tmp_path / "out", IMAGES)
    assert embedded_twice(recorder)
    with contextlib.suppress(psutil.NoSuchProcess):  # Spark kills who has lost
        stopped[0].resume()


def worker_of(cluster: Cluster, calls: list[Call]) -> psutil.Process:
    """Return the Python worker of the last batch; it must be one that the cluster's daemons have started."""
    last = max(calls, key=lambda call: call.end)
    worker = psutil.Process(last.pid)
    assert {daemon.pid for daemon in cluster.workers} & {parent.pid for parent in worker.parents()}
    return worker


def executor_of(cluster: Cluster, calls: list[Call]) -> psutil.Process:
    """Return the executor of the last batch; one that has no task yet could die without an effect."""
    executors = {executor.pid for index in (0, 1) for executor in cluster.executors(index)}
    return next(parent for parent in worker_of(cluster, calls).parents() if parent.pid in executors)


def test_the_output_disk_is_full(on_cluster: SparkSession, tmp_path: Path, recorder: Recorder) -> None:
    """The job ends with the message of the file system; with space again the same command continues."""
    output = tmp_path / "out"
    output.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", output], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small disk here: {mounted.stderr.decode().strip()}")
    try:
        write_images(tmp_path / "in", IMAGES)
        with pytest.raises(WorkerError, match="No space left on device"):
            extract(on_cluster, config(tmp_path), recorder)
        subprocess.run(["mount", "-o", "remount,size=50m", output], check=True)
        extract(on_cluster, config(tmp_path), recorder)
        check_each_once(output, IMAGES)
    finally:
        # An executor may still hold the file that it could not write; it ends with the cluster.
        subprocess.run(["umount", "--lazy", output], check=True)


def test_the_images_may_not_be_read_any_more(on_cluster: SparkSession, tmp_path: Path, recorder: Recorder) -> None:
    """Unreadable images are quarantined with the reason, and a replay embeds them later."""
    if os.geteuid() == 0 and not without_overrides():
        pytest.skip("root ignores permissions here: setpriv is missing or may not drop capabilities")
    write_images(tmp_path / "in", IMAGES)
    with in_the_middle(recorder, lambda _: (tmp_path / "in").chmod(0), images=30):
        summary = extract(on_cluster, config(tmp_path), recorder)
    assert set(summary["images"]["reasons"]) == {"unreadable"}
    (tmp_path / "in").chmod(0o755)
    extract(on_cluster, config(tmp_path, replay_quarantine=True), recorder)
    check_each_once(tmp_path / "out", IMAGES)
