"""What runs in an executor's Python worker: fetch the weights, take the device, embed a task's handles."""

from __future__ import annotations

import dataclasses
import functools
import gc
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch
from pyspark import Accumulator, SparkFiles, TaskContext

from cxrfeat.backbone import Weights
from cxrfeat.device import Device
from cxrfeat.embed import embed_batches
from cxrfeat.encoder import EncoderFactory, EncoderSpec
from cxrfeat.schema import Augmentation, Status


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
        """Turn :data:`cxrfeat.schema.HANDLE` batches into :data:`cxrfeat.schema.EMBEDDED` ones."""
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


@functools.cache
def _spare_from_collection() -> None:
    """Take what is loaded by now out of the garbage collector's sight, once a process.

    Spark's worker collects after every task, and to walk through torch's objects takes it 0.15 s each time.
    """
    gc.freeze()


def task_device(asked: Device) -> str:
    """Return the torch device of the task that runs here: the GPU that Spark gave to it, else what there is.

    With CUDA_VISIBLE_DEVICES set (YARN and Kubernetes do that) the GPU we were given is number 0 whatever its address.
    """
    if asked == Device.CPU:
        return "cpu"
    context = TaskContext.get()
    gpu = context.resources().get("gpu") if context else None
    if gpu is not None:
        return "cuda:0" if "CUDA_VISIBLE_DEVICES" in os.environ else f"cuda:{gpu.addresses[0]}"
    return "cuda:0" if asked == Device.CUDA or torch.cuda.is_available() else "cpu"


def _with_local_weights(spec: EncoderSpec) -> EncoderSpec:
    if spec.weights.path is None:
        return spec
    local = Path(SparkFiles.get(spec.weights.path.name))
    return dataclasses.replace(spec, weights=Weights(local, spec.weights.digest))
