"""A round is split into tasks that suit the task slots and the device."""

from __future__ import annotations

import pytest
from pyspark.sql import SparkSession

from cxrfeat.backbones.encoder import EncoderSpec, default_batch_size
from cxrfeat.backbones.registry import get_backbone
from cxrfeat.backbones.weights import RANDOM, find_weights
from cxrfeat.device import Device
from cxrfeat.io.refs import ImageRef
from cxrfeat.pipeline.embed import ViewPlan
from cxrfeat.spark.embedding import BATCHES_PER_TASK, count_tasks, embed_files
from cxrfeat.spark.worker import EmbedTask
from tests import fakes


@pytest.mark.parametrize(
    ("files", "slots", "batch_size", "tasks"),
    [
        (0, 2, 16, 2), (1, 2, 16, 2), (128, 2, 16, 2), (129, 2, 16, 4), (2048, 2, 16, 32), (2048, 3, 16, 33),
        (2048, 2, 1, 32), (2048, 2, 32, 16), (2048, 2, 128, 4), (2048, 8, 128, 8),
    ],
)  # fmt: skip
def test_a_round_is_cut_for_an_even_finish(files: int, slots: int, batch_size: int, tasks: int) -> None:
    """A multiple of the slots, as few as keep a task at four batches, or at 64 images where batches are small."""
    assert count_tasks(files, slots, batch_size) == tasks


@pytest.mark.parametrize(
    ("device", "schedules_gpus", "batch_on"),
    [
        (Device.AUTO, False, "cpu"), (Device.AUTO, True, "cuda"), (Device.CUDA, False, "cuda"),
        (Device.CUDA, True, "cuda"), (Device.CPU, False, "cpu"), (Device.CPU, True, "cpu"),
    ],
)  # fmt: skip
def test_tasks_are_as_big_as_their_device_needs(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, device: Device, schedules_gpus: bool, batch_on: str
) -> None:
    """A GPU's bigger batches make fewer tasks; ``--device cpu`` computes on a CPU whatever the cluster gives."""
    conf = spark.sparkContext.getConf()
    if schedules_gpus:
        conf.set("spark.task.resource.gpu.amount", "1")
    monkeypatch.setattr(spark.sparkContext, "getConf", lambda: conf)
    counter = spark.sparkContext.accumulator(0)
    spec = EncoderSpec("resnet50", find_weights(get_backbone("resnet50"), RANDOM))
    task = EmbedTask("file:/in", spec, ViewPlan(), device, fakes.make_failing, counter, counter)
    slots = spark.sparkContext.defaultParallelism
    files = [ImageRef(f"{index}.png") for index in range(slots * BATCHES_PER_TASK * default_batch_size("cuda"))]
    tasks_per_slot = default_batch_size("cuda") // default_batch_size(batch_on)
    assert embed_files(spark, files, task).rdd.getNumPartitions() == slots * tasks_per_slot
