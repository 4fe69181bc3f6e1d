"""What runs in a Python worker: real network, any partitioning, the device that the task was given."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyspark import SparkFiles, TaskContext
from pyspark.resource import ResourceInformation
from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from cxrfeat.backbones.encoder import Encoder, EncoderFactory, EncoderSpec, open_encoder
from cxrfeat.backbones.registry import BACKBONES
from cxrfeat.backbones.weights import Weights, find_weights
from cxrfeat.device import Device, Precision
from cxrfeat.errors import BundleError
from cxrfeat.head.bundle import BundleFiles, read_bundle, save_bundle
from cxrfeat.io.refs import ImageRef
from cxrfeat.io.schema import EMBEDDED, EMBEDDINGS, HANDLE, ROW_GROUP, Augmentation
from cxrfeat.pipeline.embed import ViewPlan, embed_batches
from cxrfeat.pipeline.parquet_drops import open_drop, score_row_groups
from cxrfeat.pipeline.score import score_images
from cxrfeat.spark import worker
from cxrfeat.spark.rounds import to_handles
from cxrfeat.spark.worker import (
    BroadcastHead,
    EmbedTask,
    OpenDropsTask,
    ScoreImagesTask,
    ScoreRowGroupsTask,
    task_device,
)
from tests import fakes
from tests.cxrfeat.pipeline.drops import DIM, damage_page, rows, truncate, write


def task(spark: SparkSession, root: Path, batch_size: int, factory: EncoderFactory = open_encoder) -> EmbedTask:
    weights = find_weights(BACKBONES["resnet50"], "random")
    spec = EncoderSpec("resnet50", weights, Precision.FP32, batch_size)
    counters = (spark.sparkContext.accumulator(0), spark.sparkContext.accumulator(0))
    return EmbedTask(str(root), spec, ViewPlan(), Device.CPU, factory, *counters)


def embeddings(spark: SparkSession, files: list[str], work: EmbedTask, partitions: int) -> dict[str, Any]:
    rows = (
        to_handles(spark, list(map(ImageRef, files)))
        .repartition(partitions)
        .mapInArrow(work, from_arrow_schema(EMBEDDED))
        .collect()
    )
    assert len(rows) == len(files)
    return {row.image_path: np.array(row.embedding) for row in rows}


def test_partitions_and_batch_sizes_do_not_change_embeddings(spark: SparkSession, tmp_path: Path) -> None:
    """The real network in fp32 gives the same vectors under 1, 2 and 7 partitions and any batch size (atol 1e-4)."""
    files = [f"{index}.png" for index in range(6)]
    for index, file in enumerate(files):
        (tmp_path / file).write_bytes(fakes.png(fakes.gray_image(seed=index)))
    expected = embeddings(spark, files, task(spark, tmp_path, 4), 1)
    for partitions, batch_size in ((2, 4), (7, 1), (2, 3)):
        found = embeddings(spark, files, task(spark, tmp_path, batch_size), partitions)
        for path, vector in expected.items():
            np.testing.assert_allclose(found[path], vector, atol=1e-4)


def test_images_are_counted(spark: SparkSession, tmp_path: Path) -> None:
    """The counters behind the progress bar add up over tasks: all images, and those in quarantine."""
    files = [f"{index}.png" for index in range(6)]
    for index, file in enumerate(files):
        (tmp_path / file).write_bytes(fakes.png(fakes.gray_image(seed=index)) if index % 3 else b"")
    work = task(spark, tmp_path, 4, fakes.make_fake)
    to_handles(spark, list(map(ImageRef, files))).repartition(3).mapInArrow(work, from_arrow_schema(EMBEDDED)).collect()
    assert (work.images.value, work.quarantined.value) == (6, 2)


class GpuTask:
    """A task context to which Spark has given one GPU."""

    def __init__(self, address: str) -> None:
        self.address = address

    def resources(self) -> dict[str, ResourceInformation]:
        return {"gpu": ResourceInformation("gpu", [self.address])}


@pytest.mark.parametrize(
    ("requested", "visible", "expected"),
    [
        (Device.AUTO, None, "cuda:3"),
        (Device.CUDA, None, "cuda:3"),
        (Device.CUDA, "3", "cuda:0"),  # the only one this process can see
        (Device.CUDA, "4,5,6,7", "cuda:3"),  # the last of four
        (Device.CPU, None, "cpu"),
    ],
)
def test_a_task_takes_the_gpu_that_it_was_given(
    monkeypatch: pytest.MonkeyPatch, requested: Device, visible: str | None, expected: str
) -> None:
    """The address comes from Spark, unless CUDA_VISIBLE_DEVICES has renumbered what the process sees."""
    monkeypatch.setattr(TaskContext, "get", lambda: GpuTask("3"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert task_device(requested) == expected


@pytest.mark.parametrize(
    ("requested", "present", "expected"),
    [
        (Device.AUTO, True, "cuda:0"),
        (Device.AUTO, False, "cpu"),
        (Device.CUDA, False, "cuda:0"),  # the encoder refuses it: never a silent CPU
    ],
)
def test_without_an_assigned_gpu_a_task_takes_the_first_device(
    monkeypatch: pytest.MonkeyPatch, requested: Device, present: bool, expected: str
) -> None:
    """Where Spark schedules no GPUs, auto uses the first one or the CPU, and cuda insists."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: present)
    assert task_device(requested) == expected


class Tally:
    """An accumulator of one process."""

    def __init__(self) -> None:
        self.value = 0

    def add(self, term: int) -> None:
        self.value += term


@dataclass(frozen=True)
class Sent:
    """A broadcast that has arrived."""

    value: BundleFiles


@pytest.fixture
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, list[Any]]]:
    """Clear the worker's caches, as in a new process; return its calls to gc and torch."""
    calls: dict[str, list[Any]] = {"freeze": [], "threads": []}
    monkeypatch.setattr(gc, "freeze", lambda: calls["freeze"].append(None))
    monkeypatch.setattr(torch, "set_num_threads", calls["threads"].append)
    caches: tuple[Any, ...] = (worker._freeze_loaded_objects, worker._load_predictor)
    for cache in caches:
        cache.cache_clear()
    yield calls
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def head(tmp_path: Path) -> BroadcastHead:
    save_bundle(fakes.bundle(DIM), tmp_path / "head")
    sent: Any = Sent(read_bundle(tmp_path / "head"))
    return BroadcastHead(sent, "youden")


def give_cpus(monkeypatch: pytest.MonkeyPatch, count: int | None) -> int:
    """Simulate a task with so many CPUs, or no task for None; return the number of available threads."""
    context = type("Task", (), {"cpus": lambda _: count, "resources": lambda _: {}})()
    monkeypatch.setattr(TaskContext, "get", lambda: None if count is None else context)
    return count or 1


def batches_of(schema: pa.Schema, parts: Iterable[list[dict[str, Any]]]) -> Iterator[pa.RecordBatch]:
    return (pa.RecordBatch.from_pylist(part, schema) for part in parts)


@pytest.mark.parametrize(
    ("cpus", "driver", "here"),
    [
        (None, Weights(Path("driver/w.pth"), "ab" * 32), Weights(Path("worker/w.pth"), "ab" * 32)),
        (3, Weights(None, "random-seed0"), Weights(None, "random-seed0")),
    ],
)
def test_a_task_embeds_what_it_is_handed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fresh_process: dict[str, list[Any]],
    cpus: int | None,
    driver: Weights,
    here: Weights,
) -> None:
    """The rows are those of embed_batches with local weights and the task's CPUs; images are counted, not rows."""
    threads = give_cpus(monkeypatch, cpus)
    monkeypatch.setattr(SparkFiles, "get", lambda name: f"worker/{name}")
    names = [f"{index}.png" for index in range(7)]
    for index, name in enumerate(names):
        (tmp_path / name).write_bytes(fakes.png(fakes.gray_image(seed=index)) if index % 3 else b"")
    built: list[Any] = []

    def factory(*options: Any) -> Encoder:
        built.append(options)
        return fakes.FakeEncoder()

    spec = EncoderSpec("resnet50", driver, Precision.FP32, 4)
    both = ViewPlan((Augmentation.NONE, Augmentation.HFLIP))
    images: Any = Tally()
    quarantined: Any = Tally()
    work = EmbedTask(str(tmp_path), spec, both, Device.CPU, factory, images, quarantined)
    with patch.object(worker, "embed_batches", wraps=embed_batches) as embed:
        found = [list(work(fakes.handles(names, 3))) for _ in range(2)]
    assert embed.call_args.kwargs["decode_threads"] == threads
    expected = embed_batches(fakes.handles(names), encoder=fakes.FakeEncoder(), root=str(tmp_path), plan=both)
    assert found[0] == found[1] == list(expected)
    assert (images.value, quarantined.value) == (2 * 7, 2 * 3)
    assert built == [(replace(spec, weights=here), "cpu", threads)] * 2
    assert len(fresh_process["freeze"]) == 1


@pytest.mark.parametrize("cpus", [None, 3])
def test_a_process_loads_a_head_once(
    monkeypatch: pytest.MonkeyPatch, fresh_process: dict[str, list[Any]], head: BroadcastHead, cpus: int | None
) -> None:
    """With the task's CPUs; another operating point is another head, and one that is not there is refused."""
    threads = give_cpus(monkeypatch, cpus)
    first = head.load()
    assert replace(head).load() is first
    assert fresh_process["threads"] == [threads]
    assert first.fingerprint == fakes.bundle(DIM).fingerprint
    with pytest.raises(BundleError, match="no operating point 'sure'"):
        replace(head, operating_point="sure").load()


@pytest.mark.usefixtures("fresh_process")
def test_drops_are_opened_one_by_one(tmp_path: Path, head: BroadcastHead) -> None:
    """Every drop of every batch, in order, becomes its row groups, small ones together, or one row with a reason."""
    files = [write(tmp_path / f"{number}.parquet", rows(15, seed=number)).name for number in range(3)]
    truncate(tmp_path / files[1])
    handles = batches_of(HANDLE, [[{"path": files[0]}, {"path": files[1]}], [{"path": files[2]}]])
    found = list(OpenDropsTask(str(tmp_path), head)(handles))
    assert found == [open_drop(file, str(tmp_path), head.load()) for file in files]
    assert [batch.column("reason").to_pylist() for batch in found] == [[None], ["not-parquet"], [None]]


def test_row_groups_are_scored_and_counted(
    tmp_path: Path, fresh_process: dict[str, list[Any]], head: BroadcastHead
) -> None:
    """The rows of score_row_groups; those of a bad row group count as quarantined, those of a bad file as none."""
    damage_page(write(tmp_path / "page.parquet", rows(25)), 1)
    truncate(write(tmp_path / "file.parquet", rows(9)))
    handles = [open_drop(file, str(tmp_path), head.load()).to_pylist() for file in ("page.parquet", "file.parquet")]
    scored: Any = Tally()
    quarantined: Any = Tally()
    found = list(ScoreRowGroupsTask(str(tmp_path), head, scored, quarantined)(batches_of(ROW_GROUP, handles)))
    predictor = head.load()
    assert found == list(score_row_groups([*handles[0], *handles[1]], str(tmp_path), predictor))
    assert [len(batch) for batch in found] == [10, 1, 5, 1]
    assert (scored.value, quarantined.value) == (15, 10)
    assert len(fresh_process["freeze"]) == 1


@pytest.mark.usefixtures("fresh_process")
def test_images_are_scored_batch_by_batch(head: BroadcastHead) -> None:
    """The rows of score_images for every batch: images that were embedded, and those in quarantine."""
    images: list[dict[str, Any]] = [
        {"image_path": "a.png", "status": "ok", "embedding": [1.0, 2.0, 3.0, 4.0]},
        {"image_path": "b.png", "status": "quarantined", "reason": "empty"},
        {"image_path": "c.png", "status": "ok", "embedding": [4.0, 3.0, 2.0, 1.0], "age_years": 50.0, "sex": "F"},
    ]
    parts = [images[:2], images[2:]]
    found = list(ScoreImagesTask(head)(batches_of(EMBEDDINGS, parts)))
    assert found == [part for batch in batches_of(EMBEDDINGS, parts) for part in score_images(batch, head.load())]
    assert [batch.column("drop_file").to_pylist() for batch in found] == [["a.png"], ["b.png"], ["c.png"]]
    assert found[2].column("imputed").to_pylist() == [[]]
