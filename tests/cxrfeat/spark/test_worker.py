"""What runs in a Python worker: real network, any partitioning, the device that the task was given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark import TaskContext
from pyspark.resource import ResourceInformation
from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from cxrfeat.backbone import BACKBONES, find_weights
from cxrfeat.device import Device, Precision
from cxrfeat.encoder import EncoderFactory, EncoderSpec, load_encoder
from cxrfeat.schema import EMBEDDED, Augmentation
from cxrfeat.spark.rounds import to_handles
from cxrfeat.spark.worker import EmbedTask, task_device
from tests import fakes


def task(spark: SparkSession, root: Path, batch_size: int, factory: EncoderFactory = load_encoder) -> EmbedTask:
    weights = find_weights(BACKBONES["resnet50"], "random")
    spec = EncoderSpec("resnet50", weights, Precision.FP32, batch_size)
    counters = (spark.sparkContext.accumulator(0), spark.sparkContext.accumulator(0))
    return EmbedTask(str(root), spec, (Augmentation.NONE,), Device.CPU, factory, *counters)


def embeddings(spark: SparkSession, files: list[str], work: EmbedTask, partitions: int) -> dict[str, Any]:
    rows = to_handles(spark, files).repartition(partitions).mapInArrow(work, from_arrow_schema(EMBEDDED)).collect()
    assert len(rows) == len(files)
    return {row.image_path: np.array(row.embedding) for row in rows}


def test_partitions_and_batch_sizes_do_not_change_embeddings(spark: SparkSession, tmp_path: Path) -> None:
    """The real network in fp32 gives the same vectors under 1, 2 and 7 partitions and any batch size (atol 1e-4)."""
    files = [str(tmp_path / f"{index}.png") for index in range(6)]
    for index, file in enumerate(files):
        Path(file).write_bytes(fakes.png(fakes.film(seed=index)))
    expected = embeddings(spark, files, task(spark, tmp_path, 4), 1)
    for partitions, batch_size in ((2, 4), (7, 1), (2, 3)):
        found = embeddings(spark, files, task(spark, tmp_path, batch_size), partitions)
        for path, vector in expected.items():
            np.testing.assert_allclose(found[path], vector, atol=1e-4)


def test_films_are_counted(spark: SparkSession, tmp_path: Path) -> None:
    """The counters behind the progress bar add up over tasks: all films, and those in quarantine."""
    files = [str(tmp_path / f"{index}.png") for index in range(6)]
    for index, file in enumerate(files):
        Path(file).write_bytes(fakes.png(fakes.film(seed=index)) if index % 3 else b"")
    work = task(spark, tmp_path, 4, fakes.make_fake)
    to_handles(spark, files).repartition(3).mapInArrow(work, from_arrow_schema(EMBEDDED)).collect()
    assert (work.images.value, work.quarantined.value) == (6, 2)


class GpuTask:
    """A task context to which Spark has given one GPU."""

    def __init__(self, address: str) -> None:
        self.address = address

    def resources(self) -> dict[str, ResourceInformation]:
        return {"gpu": ResourceInformation("gpu", [self.address])}


@pytest.mark.parametrize(
    ("asked", "visible", "expected"),
    [
        (Device.AUTO, None, "cuda:3"),
        (Device.CUDA, None, "cuda:3"),
        (Device.CUDA, "3", "cuda:0"),  # the only one this process can see
        (Device.CUDA, "4,5,6,7", "cuda:3"),  # the last of four
        (Device.CPU, None, "cpu"),
    ],
)
def test_a_task_takes_the_gpu_that_it_was_given(
    monkeypatch: pytest.MonkeyPatch, asked: Device, visible: str | None, expected: str
) -> None:
    """The address comes from Spark, unless CUDA_VISIBLE_DEVICES has renumbered what the process sees."""
    monkeypatch.setattr(TaskContext, "get", lambda: GpuTask("3"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert task_device(asked) == expected


@pytest.mark.parametrize(
    ("asked", "present", "expected"),
    [
        (Device.AUTO, True, "cuda:0"),
        (Device.AUTO, False, "cpu"),
        (Device.CUDA, False, "cuda:0"),  # the encoder refuses it: never a silent CPU
    ],
)
def test_without_a_gpu_of_its_own_a_task_takes_what_there_is(
    monkeypatch: pytest.MonkeyPatch, asked: Device, present: bool, expected: str
) -> None:
    """Where Spark schedules no GPUs, auto uses the first one or the CPU, and cuda insists."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: present)
    assert task_device(asked) == expected
