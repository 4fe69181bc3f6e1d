"""Functions for ``mapInArrow`` that run in the Python workers: embed images, open drops, score row groups and images.

They are pickled with the job, so they hold names and settings but never a model.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch
from pyspark import Accumulator, AccumulatorParam, Broadcast, SparkFiles, TaskContext

from cxrfeat.backbones.encoder import EncoderFactory, EncoderSpec
from cxrfeat.backbones.weights import Weights
from cxrfeat.device import Device
from cxrfeat.head.bundle import BundleFiles, parse_bundle
from cxrfeat.head.predictor import Predictor
from cxrfeat.images.decoded_image import DEFAULT_OPTIONS, ReadOptions
from cxrfeat.io.schema import Augmentation, Status
from cxrfeat.pipeline import parquet_drops
from cxrfeat.pipeline.container_stream import ContainerCount
from cxrfeat.pipeline.embed import ViewPlan, embed_batches
from cxrfeat.pipeline.score import score_images

SexCounts = dict[str, tuple[int, int]]
"""Numbers of rows with a sex, and with a known one, by drop."""

ContainerCounts = dict[str, ContainerCount]
"""Counts of containers by path."""


@dataclass(frozen=True)
class EmbedTask:
    """Function that embeds images.

    Attributes:
        root: qualified images root.
        spec: encoder with the driver's path of the weights; workers get the file by ``SparkContext.addFile``.
        plan: views of each image.
        device: requested device.
        factory: function that builds the encoder. It is called in every task, so it should cache the encoder.
        images, quarantined: progress counters, in images.
        containers: counts of the containers that tasks read as a whole; None to count none.
        options: facts that the files do not say.
    """

    root: str
    spec: EncoderSpec
    plan: ViewPlan
    device: Device
    factory: EncoderFactory
    images: Accumulator[int]
    quarantined: Accumulator[int]
    containers: Accumulator[ContainerCounts] | None = None
    options: ReadOptions = DEFAULT_OPTIONS

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield :data:`cxrfeat.io.schema.EMBEDDED` batches for :data:`cxrfeat.io.schema.HANDLE` batches."""
        context = TaskContext.get()
        cpus = context.cpus() if context else 1
        encoder = self.factory(_with_local_weights(self.spec), task_device(self.device), cpus)
        _freeze_loaded_objects()
        embedded = embed_batches(
            batches,
            encoder=encoder,
            root=self.root,
            plan=self.plan,
            decode_threads=cpus,
            options=self.options,
            report=self._report,
        )
        for rows in embedded:
            self.images.add(rows.column("augmentation").to_pylist().count(Augmentation.NONE))  # one per image
            self.quarantined.add(rows.column("status").to_pylist().count(Status.QUARANTINED))
            yield rows

    def _report(self, count: ContainerCount) -> None:
        if self.containers is not None:
            self.containers.add({count.path: count})


class MergeCounts(AccumulatorParam[ContainerCounts]):
    """Merge counts by container, so that a task that Spark repeats is not counted twice."""

    def zero(self, value: ContainerCounts) -> ContainerCounts:
        """Return no counts."""
        return {}

    def addInPlace(self, value1: ContainerCounts, value2: ContainerCounts) -> ContainerCounts:  # noqa: N802
        """Return the counts of both."""
        return {**value1, **value2}


class AddSexes(AccumulatorParam[SexCounts]):
    """Add the counts of each drop."""

    def zero(self, value: SexCounts) -> SexCounts:
        """Return no counts."""
        return {}

    def addInPlace(self, value1: SexCounts, value2: SexCounts) -> SexCounts:  # noqa: N802
        """Return the sums."""
        added = dict(value1)
        for path, (given, known) in value2.items():
            before = added.get(path, (0, 0))
            added[path] = before[0] + given, before[1] + known
        return added


@dataclass(frozen=True)
class SliceTask:
    """Function that applies a worker function to the items of its task.

    Attributes:
        slices: tables of :data:`cxrfeat.io.schema.HANDLE`, one for each task.
        work: function of batches of handles.
    """

    slices: tuple[pa.Table, ...]
    work: EmbedTask

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield what the worker function yields for the items whose task numbers are in ``id``."""
        for batch in batches:
            for number in batch.column("id").to_pylist():
                yield from self.work(self.slices[number].to_batches())


@dataclass(frozen=True)
class BroadcastHead:
    """Bundle broadcast to the workers as its two files, so that no shared file system and no pickled model is needed.

    Attributes:
        files: files of the bundle.
        operating_point: rule whose thresholds are applied.
    """

    files: Broadcast[BundleFiles]
    operating_point: str

    def load(self) -> Predictor:
        """Return the predictor, loaded once per process."""
        context = TaskContext.get()
        return _load_predictor(self.files.value, self.operating_point, context.cpus() if context else 1)


@functools.lru_cache(maxsize=2)
def _load_predictor(files: BundleFiles, operating_point: str, threads: int) -> Predictor:
    torch.set_num_threads(threads)
    return Predictor(parse_bundle(files), operating_point)


@dataclass(frozen=True)
class OpenDropsTask:
    """Function that lists the row groups of drops.

    Attributes:
        root: qualified folder of the drops.
        head: head to score with.
    """

    root: str
    head: BroadcastHead

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield :data:`cxrfeat.io.schema.ROW_GROUP` batches for :data:`cxrfeat.io.schema.HANDLE` batches."""
        predictor = self.head.load()
        for batch in batches:
            for path in batch.column("path").to_pylist():
                yield parquet_drops.open_drop(path, self.root, predictor)


@dataclass(frozen=True)
class ScoreRowGroupsTask:
    """Function that reads and scores row groups.

    Attributes:
        root: qualified folder of the drops.
        head: head to score with.
        rows, quarantined: progress counters, in rows.
        sexes: numbers of rows with a sex, and with a known one, by drop; None to count none.
    """

    root: str
    head: BroadcastHead
    rows: Accumulator[int]
    quarantined: Accumulator[int]
    sexes: Accumulator[SexCounts] | None = None

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield :func:`cxrfeat.io.schema.scored_schema` batches for :data:`cxrfeat.io.schema.ROW_GROUP` batches."""
        predictor = self.head.load()
        _freeze_loaded_objects()
        handles = (handle for batch in batches for handle in batch.to_pylist())
        for scored in parquet_drops.score_row_groups(handles, self.root, predictor, self._report_sexes):
            count = pc.sum(scored.column("rows")).as_py() or 0
            ok = scored.column("status")[0].as_py() == Status.OK
            self.rows.add(count if ok else 0)
            self.quarantined.add(0 if ok else count)
            yield scored

    def _report_sexes(self, path: str, given: int, known: int) -> None:
        if self.sexes is not None:
            self.sexes.add({path: (given, known)})


@dataclass(frozen=True)
class ScoreImagesTask:
    """Function that scores embedded images joined with their metadata."""

    head: BroadcastHead

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield :func:`cxrfeat.io.schema.scored_schema` batches for :data:`cxrfeat.io.schema.EMBEDDINGS` batches."""
        predictor = self.head.load()
        for batch in batches:
            yield from score_images(batch, predictor)


@functools.cache
def _freeze_loaded_objects() -> None:
    """Exclude the objects loaded so far from garbage collection, once per process.

    Spark's worker runs the collector after every task, and traversing torch's objects takes 0.15 s each time.
    """
    gc.freeze()


def task_device(requested: Device) -> str:
    """Return the torch device of the current task: the GPU that Spark assigned, else the first GPU or the CPU.

    If CUDA_VISIBLE_DEVICES has a single GPU (YARN and Kubernetes set it so), it is number 0 whatever its address. If it
    has several, addresses are indices into them, as docker/discover-gpus.sh reports them.
    """
    if requested == Device.CPU:
        return "cpu"
    context = TaskContext.get()
    gpu = context.resources().get("gpu") if context else None
    if gpu is not None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        return f"cuda:{gpu.addresses[0]}" if visible is None or "," in visible else "cuda:0"
    return "cuda:0" if requested == Device.CUDA or torch.cuda.is_available() else "cpu"


def _with_local_weights(spec: EncoderSpec) -> EncoderSpec:
    if spec.weights.path is None:
        return spec
    local = Path(SparkFiles.get(spec.weights.path.name))
    return dataclasses.replace(spec, weights=Weights(local, spec.weights.digest))
