"""What runs in an executor's Python worker: fetch weights or head, take the device, and do a task's handles."""

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
from pyspark import Accumulator, Broadcast, SparkFiles, TaskContext

from cxrfeat.backbones.encoder import EncoderFactory, EncoderSpec
from cxrfeat.backbones.weights import Weights
from cxrfeat.device import Device
from cxrfeat.head.bundle import BundleFiles, parse_bundle
from cxrfeat.head.predictor import Predictor
from cxrfeat.io.schema import Augmentation, Status
from cxrfeat.pipeline import parquet_drops
from cxrfeat.pipeline.embed import embed_batches
from cxrfeat.pipeline.score import score_images


@dataclass(frozen=True)
class EmbedTask:
    """The function that ``mapInArrow`` runs; pickled with the job, so it holds names and never a model.

    Attributes:
        root: qualified images root.
        spec: the encoder, its weights as the driver sees them; workers have them from ``SparkContext.addFile``.
        augmentations: rows of each film.
        device: as asked for.
        factory: builds the encoder; called for every task, so it keeps what it built.
        images, quarantined: progress, counted in films.
    """

    root: str
    spec: EncoderSpec
    augmentations: tuple[Augmentation, ...]
    device: Device
    factory: EncoderFactory
    images: Accumulator[int]
    quarantined: Accumulator[int]

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Turn :data:`cxrfeat.io.schema.HANDLE` batches into :data:`cxrfeat.io.schema.EMBEDDED` ones."""
        context = TaskContext.get()
        cpus = context.cpus() if context else 1
        encoder = self.factory(_with_local_weights(self.spec), task_device(self.device), cpus)
        _spare_from_collection()
        embedded = embed_batches(
            batches, encoder=encoder, root=self.root, augmentations=self.augmentations, decode_threads=cpus
        )
        for rows in embedded:
            refused = rows.column("status").to_pylist().count(Status.QUARANTINED)
            self.images.add((rows.num_rows - refused) // len(self.augmentations) + refused)
            self.quarantined.add(refused)
            yield rows


@dataclass(frozen=True)
class ShippedHead:
    """A bundle on its way to the workers, as its own two files: no shared file system, and no pickled model.

    Attributes:
        files: the bundle.
        operating_point: whose thresholds count.
    """

    files: Broadcast[BundleFiles]
    operating_point: str

    def load(self) -> Predictor:
        """Return the head, or the one that this process loaded before."""
        context = TaskContext.get()
        return _load_predictor(self.files.value, self.operating_point, context.cpus() if context else 1)


@functools.lru_cache(maxsize=2)
def _load_predictor(files: BundleFiles, operating_point: str, threads: int) -> Predictor:
    torch.set_num_threads(threads)
    return Predictor(parse_bundle(files), operating_point)


@dataclass(frozen=True)
class OpenDropsTask:
    """Turns drops into their row groups, for ``mapInArrow``."""

    head: ShippedHead

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Turn :data:`cxrfeat.io.schema.HANDLE` batches into :data:`cxrfeat.io.schema.ROW_GROUP` ones."""
        predictor = self.head.load()
        for batch in batches:
            for uri in batch.column("uri").to_pylist():
                yield parquet_drops.open_drop(uri, predictor)


@dataclass(frozen=True)
class ScoreRowGroupsTask:
    """Reads and scores row groups, for ``mapInArrow``.

    Attributes:
        root: qualified folder of the drops.
        head: the head.
        rows, quarantined: progress, counted in rows.
    """

    root: str
    head: ShippedHead
    rows: Accumulator[int]
    quarantined: Accumulator[int]

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Turn :data:`cxrfeat.io.schema.ROW_GROUP` batches into :func:`cxrfeat.io.schema.scored_schema` ones."""
        predictor = self.head.load()
        _spare_from_collection()
        for batch in batches:
            for handle in batch.to_pylist():
                for scored in parquet_drops.score_row_group(handle, self.root, predictor):
                    count = pc.sum(scored.column("rows")).as_py() or 0
                    ok = scored.column("status")[0].as_py() == Status.OK
                    self.rows.add(count if ok else 0)
                    self.quarantined.add(0 if ok else count)
                    yield scored


@dataclass(frozen=True)
class ScoreImagesTask:
    """Scores films that were embedded and joined with their metadata, for ``mapInArrow``."""

    head: ShippedHead

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Turn :data:`cxrfeat.io.schema.EMBEDDINGS` batches into :func:`cxrfeat.io.schema.scored_schema` ones."""
        predictor = self.head.load()
        for batch in batches:
            yield from score_images(batch, predictor)


@functools.cache
def _spare_from_collection() -> None:
    """Take what is loaded by now out of the garbage collector's sight, once a process.

    Spark's worker collects after every task, and to walk through torch's objects takes it 0.15 s each time.
    """
    gc.freeze()


def task_device(asked: Device) -> str:
    """Return the torch device of the task that runs here: the GPU that Spark gave to it, else what there is.

    Where CUDA_VISIBLE_DEVICES shows one GPU (YARN and Kubernetes do that), that is number 0 whatever its address. Where
    it shows several, addresses count them from 0, as docker/discover-gpus.sh does.
    """
    if asked == Device.CPU:
        return "cpu"
    context = TaskContext.get()
    gpu = context.resources().get("gpu") if context else None
    if gpu is not None:
        shown = os.environ.get("CUDA_VISIBLE_DEVICES")
        return f"cuda:{gpu.addresses[0]}" if shown is None or "," in shown else "cuda:0"
    return "cuda:0" if asked == Device.CUDA or torch.cuda.is_available() else "cpu"


def _with_local_weights(spec: EncoderSpec) -> EncoderSpec:
    if spec.weights.path is None:
        return spec
    local = Path(SparkFiles.get(spec.weights.path.name))
    return dataclasses.replace(spec, weights=Weights(local, spec.weights.digest))
