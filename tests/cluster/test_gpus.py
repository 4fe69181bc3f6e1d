"""Spark assigns GPUs to tasks, and a task uses the GPU that it was assigned."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from cxrfeat.backbones.encoder import open_encoder
from cxrfeat.device import Device
from cxrfeat.errors import WorkerError
from cxrfeat.spark.extract import extract
from tests.cluster.conftest import ADDRESSES, CPUS_PER_TASK
from tests.cluster.encoders import Call, Recorder
from tests.cluster.films import check_each_once, config, write_images

pytestmark = [pytest.mark.cluster, pytest.mark.spark]


def test_two_tasks_never_hold_one_gpu(on_cluster: SparkSession, tmp_path: Path, recorder: Recorder) -> None:
    """Every address is used, each by one task at a time, with as many decode threads as the task has cores."""
    write_images(tmp_path / "in", 640)
    # two rounds: on a busy machine, the workers of a slot may start after the first one
    extract(on_cluster, config(tmp_path, round_size=320), recorder)
    check_each_once(tmp_path / "out", 640)
    tasks: dict[str, list[Call]] = {}
    for call in recorder.calls():
        assert call.threads == CPUS_PER_TASK
        tasks.setdefault(call.task, []).append(call)
    held: dict[str, list[tuple[float, float]]] = {}
    for calls in tasks.values():
        (device,) = {call.device for call in calls}
        held.setdefault(device, []).append((min(call.begin for call in calls), max(call.end for call in calls)))
    assert set(held) == {f"cuda:{address}" for addresses in ADDRESSES for address in addresses}
    assert sum(map(len, held.values())) >= 8
    for device, spans in held.items():
        for (_, end), (begin, _) in itertools.pairwise(sorted(spans)):
            assert end <= begin, device


def test_a_gpu_that_is_not_there_is_one_line_on_the_driver(on_cluster: SparkSession, tmp_path: Path) -> None:
    """The real encoder finds none of the made-up GPUs; the error names the device that the task was given."""
    write_images(tmp_path / "in", 4)
    with pytest.raises(WorkerError, match=r"^a task failed: cxrfeat.errors.DeviceError: device 'cuda:[2357]' "):
        extract(on_cluster, config(tmp_path, device=Device.CUDA), open_encoder)
