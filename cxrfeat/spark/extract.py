"""Stage 1: a folder of X-rays → ``OUT/embeddings``, round by round."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from cxrfeat import imaging, storage
from cxrfeat.backbone import RANDOM, find_weights, get_backbone, load_network
from cxrfeat.device import Device, Precision
from cxrfeat.encoder import EncoderFactory, EncoderSpec, default_batch_size, load_encoder
from cxrfeat.errors import ConfigError
from cxrfeat.schema import EMBEDDED, Augmentation, Status
from cxrfeat.spark.dataset import Dataset
from cxrfeat.spark.manifest import Manifest, describe_split
from cxrfeat.spark.metadata import read_metadata
from cxrfeat.spark.progress import Progress
from cxrfeat.spark.rounds import Rounds, run_rounds, to_handles
from cxrfeat.spark.session import check_connectors
from cxrfeat.spark.splits import SplitRule, assign_splits
from cxrfeat.spark.summary import Summary, write_summary
from cxrfeat.spark.worker import EmbedTask
from cxrfeat.splits import SplitLevel

_LOG = logging.getLogger(__name__)

BATCHES_PER_TASK = 4
"""A few seconds of one core: short enough for an even finish and a live bar, long enough to hide a task's cost."""

_LEAST_IMAGES_PER_TASK = 64
"""However small the batches."""

ROWS_PER_FILE = 2048
"""9 MB of 2048-d vectors. A default round makes two such files, so that a second core has something to write."""


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
    round_size: int = 4096
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


def extract(spark: SparkSession, config: ExtractConfig, factory: EncoderFactory = load_encoder) -> Summary:
    """Embed every image that has not been embedded yet, and return the summary of the whole output.

    Args:
        spark: the session.
        config: what to do.
        factory: builds the encoder in each worker.

    Raises:
        CxrfeatError: settings, weights or metadata that can't be used, or an output of other settings.
        WorkerError: a task failed; run again to go on.
        DatasetIntegrityError: the output breaks a promise; see :meth:`Dataset.check`.
    """
    inputs = (config.metadata, config.split.train_val_list, config.split.test_list)
    check_connectors(spark, config.images, config.output, *inputs)
    _LOG.info("listing %s", config.images)
    listed = sorted(storage.list_files(config.images, imaging.SUFFIXES))
    if not listed and config.watch is None:
        looked_for = ", ".join(imaging.SUFFIXES)
        raise ConfigError(f"no image found below {config.images}; looked for {looked_for} at any depth")
    for location in filter(None, inputs):
        storage.check_file(location)
    spec = prepare_encoder(spark, config)
    _manifest(config, spec).write_or_check(config.output)
    dataset = Dataset(spark, config.output)
    dataset.finish_replay()
    if config.metadata is not None:
        _LOG.info("reading metadata %s", config.metadata)
        dataset.write_metadata(assign_splits(spark, read_metadata(spark, config.metadata), config.split))
    total = None if config.watch else len(listed)
    _LOG.info("embedding with %s", spec.fingerprint)
    done = dataset.count_films(Status.OK if config.replay_quarantine else None)
    with Progress(spark.sparkContext, total=total, done=done) as progress:
        task = EmbedTask(
            config.images, spec, config.augmentations, config.device, factory, progress.done, progress.quarantined
        )

        def commit(files: Sequence[str], round_id: int) -> None:
            rows = embed_files(spark, files, task)
            written = -(-len(files) * len(config.augmentations) // ROWS_PER_FILE)
            dataset.write_round(rows, round_id, files=written)
            if config.watch is not None:
                write_summary(dataset, spec.fingerprint)

        if config.replay_quarantine:
            dataset.replay_quarantine(lambda paths: embed_files(spark, _locate(config.images, paths), task))
        run_rounds(spark, config.rounds, commit)
    dataset.check(listed, by_patient=config.split.level == SplitLevel.PATIENT)
    return write_summary(dataset, spec.fingerprint)


def embed_files(spark: SparkSession, files: Sequence[str], task: EmbedTask) -> DataFrame:
    """Return the lazy table of :data:`cxrfeat.schema.EMBEDDED` rows of some files.

    Every task slot gets as many tasks as the others, so that all finish together.
    """
    conf = spark.sparkContext.getConf()
    slots = max(1, spark.sparkContext.defaultParallelism // int(conf.get("spark.task.cpus", "1")))
    gives_gpus = conf.contains("spark.task.resource.gpu.amount")
    on_gpu = task.device == Device.CUDA or (task.device == Device.AUTO and gives_gpus)
    batch_size = task.spec.batch_size or default_batch_size("cuda" if on_gpu else "cpu")
    tasks = count_tasks(len(files), slots, batch_size)
    return to_handles(spark, files).repartition(tasks).mapInArrow(task, from_arrow_schema(EMBEDDED))


def count_tasks(files: int, slots: int, batch_size: int) -> int:
    """Return how many tasks to make of a round: a multiple of the task slots."""
    images_per_task = max(BATCHES_PER_TASK * batch_size, _LEAST_IMAGES_PER_TASK)
    return slots * max(1, -(-files // (images_per_task * slots)))


def _locate(root: str, paths: Sequence[str]) -> list[str]:
    return [storage.join(root, path) for path in paths]


def prepare_encoder(spark: SparkSession, config: ExtractConfig) -> EncoderSpec:
    """Find the weights, try them on the driver, where an error is one line, and ship them with the job."""
    backbone = get_backbone(config.backbone)
    weights = find_weights(backbone, config.weights)
    spec = EncoderSpec(backbone.name, weights, config.precision, config.batch_size)
    load_network(backbone, weights)
    if weights.path is None:
        _LOG.warning("the network is untrained (--weights %s): good for trying things out, never for results", RANDOM)
    else:
        spark.sparkContext.addFile(str(weights.path))
    return spec


def _manifest(config: ExtractConfig, spec: EncoderSpec) -> Manifest:
    return Manifest(
        images=config.images,
        extractor=spec.fingerprint,
        augmentations=tuple(augmentation.value for augmentation in config.augmentations),
        split=describe_split(config.split),
        weights_sha256=spec.weights.digest,
    )
