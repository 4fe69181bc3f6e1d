"""Films → embeddings on the cluster: which films and which network, and how a round of them is spread over tasks.

Both jobs do it: the extraction stores what comes out, the scoring of images goes on with it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from cxrfeat.backbones.encoder import EncoderSpec, default_batch_size
from cxrfeat.backbones.registry import get_backbone
from cxrfeat.backbones.weights import RANDOM, find_weights, load_network
from cxrfeat.device import Device, Precision
from cxrfeat.io import storage
from cxrfeat.io.schema import EMBEDDED
from cxrfeat.spark.rounds import to_handles
from cxrfeat.spark.session import count_slots
from cxrfeat.spark.worker import EmbedTask

_LOG = logging.getLogger(__name__)

BATCHES_PER_TASK = 4
"""A few seconds of one core: short enough for an even finish and a live bar, long enough to hide a task's cost."""

_LEAST_IMAGES_PER_TASK = 64
"""However small the batches."""


@dataclass(frozen=True)
class EmbeddingConfig:
    """Which films are embedded, and by what.

    Attributes:
        images: folder or URI of the films.
        metadata: CSV of their labels and people, or None.
        weights: of the backbone: a path, a name, or None for the backbone's published ones.
        backbone: name in the registry.
        precision: of the network.
        device: where it runs.
        batch_size: films at once in the network; None for the device's default.
    """

    images: str
    metadata: str | None = None
    weights: str | None = None
    backbone: str = "resnet50"
    precision: Precision = Precision.AUTO
    device: Device = Device.AUTO
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Qualify the folder."""
        object.__setattr__(self, "images", storage.qualify(self.images))


def prepare_encoder(spark: SparkSession, config: EmbeddingConfig) -> EncoderSpec:
    """Find the weights, try them on the driver, where an error is one line, and ship them with the job.

    Raises:
        CxrfeatError: a backbone, weights or a batch size that can't be used.
    """
    backbone = get_backbone(config.backbone)
    weights = find_weights(backbone, config.weights)
    spec = EncoderSpec(backbone.name, weights, config.precision, config.batch_size)
    load_network(backbone, weights)
    if weights.path is None:
        _LOG.warning("the network is untrained (--weights %s): good for trying things out, never for results", RANDOM)
    else:
        spark.sparkContext.addFile(str(weights.path))
    return spec


def embed_files(spark: SparkSession, files: Sequence[str], task: EmbedTask) -> DataFrame:
    """Return the lazy table of :data:`cxrfeat.io.schema.EMBEDDED` rows of some files.

    Every task slot gets as many tasks as the others, so that all finish together.
    """
    gives_gpus = spark.sparkContext.getConf().contains("spark.task.resource.gpu.amount")
    on_gpu = task.device == Device.CUDA or (task.device == Device.AUTO and gives_gpus)
    batch_size = task.spec.batch_size or default_batch_size("cuda" if on_gpu else "cpu")
    tasks = count_tasks(len(files), count_slots(spark), batch_size)
    return to_handles(spark, files).repartition(tasks).mapInArrow(task, from_arrow_schema(EMBEDDED))


def count_tasks(files: int, slots: int, batch_size: int) -> int:
    """Return how many tasks to make of a round: a multiple of the task slots."""
    images_per_task = max(BATCHES_PER_TASK * batch_size, _LEAST_IMAGES_PER_TASK)
    return slots * max(1, -(-files // (images_per_task * slots)))
