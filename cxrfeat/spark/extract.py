"""Stage 1: a folder of X-rays → ``OUT/embeddings``, round by round."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import pyarrow as pa
import torch
from pyspark import Accumulator, SparkFiles, TaskContext
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from cxrfeat import imaging, storage
from cxrfeat.backbone import Weights, find_weights, get_backbone, load_network
from cxrfeat.embed import embed_batches
from cxrfeat.encoder import EncoderFactory, EncoderSpec, Precision, load_encoder
from cxrfeat.errors import ConfigError
from cxrfeat.schema import EMBEDDED, Augmentation, Status
from cxrfeat.spark.dataset import Dataset
from cxrfeat.spark.manifest import Manifest, describe_split
from cxrfeat.spark.metadata import read_metadata
from cxrfeat.spark.progress import Progress
from cxrfeat.spark.rounds import Rounds, run_rounds
from cxrfeat.spark.splits import SplitRule, assign_splits
from cxrfeat.spark.summary import Summary, write_summary
from cxrfeat.splits import SplitLevel

IMAGES_PER_TASK = 64
"""A few seconds of one core: short enough for an even finish and a live bar, long enough to hide a task's cost."""

ROWS_PER_FILE = 4096
"""About 32 MB of 2048-d vectors."""


class Device(StrEnum):
    """Where the network runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


@dataclass(frozen=True)
class ExtractConfig:
    """What one extraction is to do; see ``spark_jobs/extract.py --help`` for each option.

    Raises ConfigError for values that can't be carried out.
    """

    images: str
    output: str
    metadata: str | None = None
    split: SplitRule = field(default_factory=SplitRule)
    weights: str | None = None
    backbone: str = "resnet50"
    augment: tuple[Augmentation, ...] = ()
    precision: Precision = Precision.AUTO
    device: Device = Device.AUTO
    batch_size: int | None = None
    round_size: int = 2048
    watch: float | None = None
    replay_quarantine: bool = False

    def __post_init__(self) -> None:
        """Qualify the folders and check them against each other."""
        object.__setattr__(self, "images", storage.qualify(self.images))
        object.__setattr__(self, "output", storage.qualify(self.output))
        if f"{self.output}/".startswith(f"{self.images}/"):
            raise ConfigError(f"output {self.output!r} lies inside the images folder {self.images!r}")
        if self.metadata is None and self.split != SplitRule():
            raise ConfigError("a split needs --metadata: it is drawn by patient")

    @property
    def augmentations(self) -> tuple[Augmentation, ...]:
        """Rows to make of each film: the film itself first."""
        return (Augmentation.NONE, *self.augment)

    @property
    def rounds(self) -> Rounds:
        """The stream of images."""
        checkpoint = storage.join(self.output, "_checkpoint")
        return Rounds(self.images, imaging.SUFFIXES, checkpoint, self.round_size, self.watch)


@dataclass(frozen=True)
class EmbedTask:
    """What ``mapInArrow`` runs in a worker; pickled with the job, so it holds names and never a model."""

    root: str
    spec: EncoderSpec
    augmentations: tuple[Augmentation, ...]
    device: Device
    factory: EncoderFactory
    images: Accumulator[int]
    quarantined: Accumulator[int]

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Embed a task's handles; the encoder is built once a worker process."""
        context = TaskContext.get()
        cpus = context.cpus() if context else 1
        encoder = self.factory(_fetch_weights(self.spec), task_device(self.device), cpus)
        done = embed_batches(
            batches, encoder=encoder, root=self.root, augmentations=self.augmentations, decode_threads=cpus
        )
        for rows in done:
            statuses = rows.column("status").to_pylist()
            refused = statuses.count(Status.QUARANTINED)
            self.images.add((len(statuses) - refused) // len(self.augmentations) + refused)
            self.quarantined.add(refused)
            yield rows


def extract(spark: SparkSession, config: ExtractConfig, factory: EncoderFactory = load_encoder) -> Summary:
    """Embed every image that has not been embedded yet, and return the summary of the whole output.

    Args:
        spark: the session.
        config: what to do.
        factory: builds the encoder in each worker.

    Raises:
        CxrfeatError: settings, weights or metadata that can't be used, or an output of other settings.
        DatasetIntegrityError: the output breaks a promise; see :meth:`Dataset.check`.
    """
    listed = sorted(storage.list_files(config.images, imaging.SUFFIXES))
    if not listed and config.watch is None:
        raise ConfigError(
            f"no image found below {config.images}; looked for {', '.join(imaging.SUFFIXES)} at any depth"
        )
    spec = _prepare_encoder(spark, config)
    manifest = Manifest(
        images=config.images,
        extractor=spec.fingerprint,
        augmentations=tuple(augmentation.value for augmentation in config.augmentations),
        split=describe_split(config.split),
        weights_sha256=spec.weights.digest,
    )
    manifest.write_or_check(config.output)
    dataset = Dataset(spark, config.output)
    if config.metadata is not None:
        dataset.write_metadata(assign_splits(spark, read_metadata(spark, config.metadata), config.split))
    total = None if config.watch else len(listed)
    with Progress(spark.sparkContext, total=total, done=dataset.films().count()) as progress:
        task = EmbedTask(
            config.images, spec, config.augmentations, config.device, factory, progress.images, progress.quarantined
        )

        def commit(handles: DataFrame, round_id: int) -> None:
            images = handles.count()
            tasks = _even_tasks(images, spark.sparkContext.defaultParallelism)
            rows = handles.repartition(tasks).mapInArrow(task, from_arrow_schema(EMBEDDED))
            files = -(-images * len(config.augmentations) // ROWS_PER_FILE)
            dataset.write_round(rows, round_id, files=files)
            if config.watch is not None:
                write_summary(dataset, spec.fingerprint)

        run_rounds(spark, config.rounds, commit)
    dataset.check(listed, by_patient=config.split.level == SplitLevel.PATIENT)
    return write_summary(dataset, spec.fingerprint)


def _even_tasks(images: int, slots: int) -> int:
    """Return how many tasks to cut a round into: as many for each slot, so that all slots finish together."""
    return slots * -(-images // (IMAGES_PER_TASK * slots))


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


def _prepare_encoder(spark: SparkSession, config: ExtractConfig) -> EncoderSpec:
    """Find the weights, try them on the driver, where an error is one line, and ship them with the job."""
    backbone = get_backbone(config.backbone)
    weights = find_weights(backbone, config.weights)
    spec = EncoderSpec(backbone.name, weights, config.precision, config.batch_size)
    load_network(backbone, weights)
    if weights.path is not None:
        spark.sparkContext.addFile(str(weights.path))
    return spec


def _fetch_weights(spec: EncoderSpec) -> EncoderSpec:
    if spec.weights.path is None:
        return spec
    local = Path(SparkFiles.get(spec.weights.path.name))
    return dataclasses.replace(spec, weights=Weights(local, spec.weights.digest))
