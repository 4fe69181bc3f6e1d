"""Embed images on the cluster: settings, encoder, and distribution of one round over tasks.

Both jobs use it: extraction stores the embeddings, scoring passes them on to the head.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from cxrfeat.backbones.backbone import Backbone
from cxrfeat.backbones.encoder import EncoderSpec, check_encoder, default_batch_size
from cxrfeat.backbones.registry import DEFAULT_BACKBONE, get_backbone
from cxrfeat.backbones.weights import RANDOM, find_weights, parse_fingerprint
from cxrfeat.device import Device, Engine, Precision
from cxrfeat.errors import ConfigError
from cxrfeat.images.preprocess import Fit
from cxrfeat.io import storage
from cxrfeat.io.refs import ImageRef, is_whole, to_table
from cxrfeat.io.schema import EMBEDDED
from cxrfeat.spark.session import count_slots
from cxrfeat.spark.worker import EmbedTask, SliceTask

_LOG = logging.getLogger(__name__)

BATCHES_PER_TASK = 4
"""About a few seconds of one core: short enough to balance the load and update the bar, long enough to hide the
overhead of a task."""

_MIN_IMAGES_PER_TASK = 64
"""Lower limit for small batches."""


@dataclass(frozen=True)
class EmbeddingConfig:
    """Images to embed and the network that embeds them.

    Attributes:
        images: folder or URI of the images.
        metadata: tables with their labels and patients; empty for none.
        columns: TOML file with the column map of the tables; None recognises a known dialect.
        weights: path or name of the backbone's weights; None for its published weights.
        backbone: name in the registry; None for resnet50, or for the backbone of the head that scores.
        precision: arithmetic of the network.
        device: device that runs the network.
        batch_size: images per batch; None for the device's default.
        input_size: height and width of the network's input in pixels; None for the backbone's default.
        fit: how an image becomes a square; None for the backbone's default.
        engine: library that runs the network; None for torch, or for openvino if the network is quantised.
    """

    images: str
    metadata: tuple[str, ...] = ()
    columns: str | None = None
    weights: str | None = None
    backbone: str | None = None
    precision: Precision = Precision.AUTO
    device: Device = Device.AUTO
    batch_size: int | None = None
    input_size: int | None = None
    fit: Fit | None = None
    engine: Engine | None = None

    def __post_init__(self) -> None:
        """Qualify the images folder.

        Raises:
            ConfigError: columns without metadata.
        """
        if self.columns is not None and not self.metadata:
            raise ConfigError("--columns needs --metadata, whose columns it describes")
        object.__setattr__(self, "images", storage.qualify(self.images))

    def for_extractor(self, extractor: str) -> EmbeddingConfig:
        """Return the settings with the backbone and input of an extractor where none are given."""
        backbone, _, shape = parse_fingerprint(extractor)
        size, fit = shape or (None, None)
        return replace(
            self,
            backbone=self.backbone or backbone,
            input_size=self.input_size or size,
            fit=self.fit or fit,
        )


def resolve_backbone(config: EmbeddingConfig) -> Backbone:
    """Return the backbone of a job with its input.

    Raises:
        ConfigError: the backbone is unknown or not installed, or does not accept the input size.
    """
    return get_backbone(config.backbone or DEFAULT_BACKBONE).with_input(config.input_size, config.fit)


def prepare_encoder(spark: SparkSession, config: EmbeddingConfig) -> EncoderSpec:
    """Find the weights, load them once on the driver, where an error is one line, and send them to the executors.

    Raises:
        CxrfeatError: the backbone, its weights or the batch size is invalid.
    """
    backbone = resolve_backbone(config)
    weights = find_weights(backbone, config.weights)
    spec = EncoderSpec(
        backbone.name,
        weights,
        config.precision,
        config.batch_size,
        config.input_size,
        config.fit,
        config.engine,
    )
    check_encoder(spec)
    if weights.path is None:
        _LOG.warning("warning: the network is untrained (--weights %s); use it for tests only", RANDOM)
    else:
        spark.sparkContext.addFile(str(weights.path))
    return spec


def embed_files(spark: SparkSession, items: Sequence[ImageRef], task: EmbedTask) -> DataFrame:
    """Return a lazy table with the :data:`cxrfeat.io.schema.EMBEDDED` rows of files, members and containers."""
    schedules_gpus = spark.sparkContext.getConf().contains("spark.task.resource.gpu.amount")
    on_gpu = task.device == Device.CUDA or (task.device == Device.AUTO and schedules_gpus)
    batch_size = task.spec.batch_size or default_batch_size("cuda" if on_gpu else "cpu")
    slices = tuple(map(to_table, slice_items(items, count_slots(spark), batch_size)))
    numbers = spark.range(0, len(slices), 1, max(1, len(slices)))  # one per task: the closure has the items
    return numbers.mapInArrow(SliceTask(slices, task), from_arrow_schema(EMBEDDED))


def slice_items(items: Sequence[ImageRef], slots: int, batch_size: int) -> list[Sequence[ImageRef]]:
    """Return the items of each task: a container that is read as a whole, or neighbours of equal number.

    Every task slot gets the same number of tasks of neighbours, so that all slots finish together. The largest
    containers come first.
    """
    wholes = sorted(filter(is_whole, items), key=lambda item: -(item.length or 0))
    single = [item for item in items if not is_whole(item)]
    tasks = min(len(single), count_tasks(len(single), slots, batch_size))
    bounds = [len(single) * task // tasks for task in range(tasks + 1)] if tasks else [0]
    return [*([item] for item in wholes), *(single[start:end] for start, end in itertools.pairwise(bounds))]


def count_tasks(files: int, slots: int, batch_size: int) -> int:
    """Return the number of tasks for one round: a multiple of the task slots."""
    images_per_task = max(BATCHES_PER_TASK * batch_size, _MIN_IMAGES_PER_TASK)
    return slots * max(1, -(-files // (images_per_task * slots)))
