"""Embed images on the cluster: settings, encoder, and distribution of one round over tasks.

Both jobs use it: extraction stores the embeddings, scoring passes them on to the head.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from cxrfeat.backbones.backbone import Backbone
from cxrfeat.backbones.encoder import EncoderSpec, check_encoder, default_batch_size
from cxrfeat.backbones.registry import DEFAULT_BACKBONE, get_backbone
from cxrfeat.backbones.weights import RANDOM, find_weights, parse_fingerprint
from cxrfeat.device import Device, Engine, Precision
from cxrfeat.errors import ConfigError
from cxrfeat.images.candidates import may_be_dicom
from cxrfeat.images.decoded_image import ReadOptions
from cxrfeat.images.header import Pseudonyms
from cxrfeat.images.preprocess import Fit
from cxrfeat.io import storage
from cxrfeat.io.patient_key import load_key
from cxrfeat.io.refs import ImageRef, is_whole, to_table
from cxrfeat.io.schema import EMBEDDED
from cxrfeat.io.skipped import Skipped
from cxrfeat.labels.columns import load_column_map
from cxrfeat.labels.image_metadata import ImageMetadata, load_image_metadata
from cxrfeat.labels.splits import SplitRule
from cxrfeat.pipeline.container_metadata import read_container_metadata
from cxrfeat.spark.session import count_slots
from cxrfeat.spark.worker import ContainerCounts, EmbedTask, SliceTask

_LOG = logging.getLogger(__name__)

BATCHES_PER_TASK = 4
"""About a few seconds of one core: short enough to balance the load and update the bar, long enough to hide the
overhead of a task."""

CONTAINERS = "containers"
"""Name of the note about containers in the log of rounds."""

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
        image_feature: name of the feature with the image in TFRecord files; None tries the usual ones.
        webdataset_metadata: take the fields of images in tar archives from their ``.json`` and ``.cls`` neighbours.
        bits_stored: number of bits in use in 16-bit samples; None means all of them.
        any_dicom: embed DICOM images of any modality and body part.
        keep_patient_ids: store the patients' identifiers of DICOM headers, not their hashes.
        patient_key: file with the key of the hashes; None for the default file.
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
    image_feature: str | None = None
    webdataset_metadata: bool = False
    bits_stored: int | None = None
    any_dicom: bool = False
    keep_patient_ids: bool = False
    patient_key: str | None = None
    engine: Engine | None = None

    def __post_init__(self) -> None:
        """Qualify the images folder.

        Raises:
            ConfigError: columns without metadata, two sources of metadata, or a number of bits out of range.
        """
        self.read_options()  # checks the values
        if self.columns is not None and not self.metadata and not self.webdataset_metadata:
            raise ConfigError("--columns needs --metadata, whose columns it describes")
        if self.metadata and self.webdataset_metadata:
            raise ConfigError("--metadata and --webdataset-metadata cannot be combined")
        object.__setattr__(self, "images", storage.qualify(self.images))

    def read_options(self, pseudonyms: Pseudonyms | None = None) -> ReadOptions:
        """Return the facts that the files do not say themselves."""
        return ReadOptions(self.image_feature, self.bits_stored, self.any_dicom, pseudonyms)

    def load_pseudonyms(self, items: Sequence[ImageRef], *, watching: bool = False) -> Pseudonyms | None:
        """Return the rule for the identifiers in DICOM headers; None where no DICOM file can come.

        Raises:
            ConfigError: the key cannot be read or created, though it is named or DICOM files are listed.
        """
        listed = any(not is_whole(item) and may_be_dicom(item) for item in items)
        if not (listed or watching or any(map(is_whole, items))):
            return None
        try:
            return Pseudonyms(load_key(self.patient_key), self.keep_patient_ids)
        except ConfigError as error:
            if listed or self.patient_key is not None:
                raise
            _LOG.warning("warning: identifiers of DICOM files, should any come, are left out: %s", error)
            return None

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


def load_metadata(
    config: EmbeddingConfig,
    items: Sequence[ImageRef],
    *,
    rule: SplitRule | None = None,
    max_unmatched: float = 1.0,
) -> ImageMetadata | None:
    """Read the metadata of a job: of its tables, or without any of its TFRecord files and WebDataset shards.

    Args:
        config: settings of the job.
        items: items that exist now.
        rule: rule that assigns the splits.
        max_unmatched: largest share of images that may be in neither official list.

    Raises:
        ConfigError: a table does not exist, or the lists do not belong to the images.
        MetadataError: a table is unusable.
    """
    records = None
    if not config.metadata:
        column_map = load_column_map(config.columns) if config.columns else None
        with storage.as_config_error(config.images):
            records = read_container_metadata(
                config.images, items, webdataset=config.webdataset_metadata, column_map=column_map
            )
        if records is None:
            return None
    images = [item.key for item in items if not is_whole(item)]
    known = load_image_metadata(
        config.metadata, images, columns=config.columns, records=records, rule=rule, max_unmatched=max_unmatched
    )
    for message in known.messages:
        _LOG.info("%s", message)
    return known


@contextlib.contextmanager
def embedded_round(
    spark: SparkSession, items: Sequence[ImageRef], task: EmbedTask, *, needs_paths: bool
) -> Iterator[tuple[DataFrame, list[str]]]:
    """Embed a round, and return its rows and the paths of its images.

    The images of a container that is read as a whole are known only afterwards. Where their paths are needed, to join
    them with the metadata, the rows are computed first and kept until the context ends.

    Args:
        spark: session that runs the job.
        items: items of the round.
        task: function of the workers.
        needs_paths: False if the paths need not be complete.
    """
    rows = embed_files(spark, items, task)
    if not needs_paths or not any(map(is_whole, items)):
        yield rows, [item.key for item in items]
        return
    rows = rows.persist(StorageLevel.MEMORY_AND_DISK)
    try:
        yield rows, rows.select("image_path").distinct().toArrow()["image_path"].to_pylist()
    finally:
        rows.unpersist()


def note_containers(items: Sequence[ImageRef], counts: ContainerCounts) -> dict[str, object]:
    """Return what the log notes of a round: number of images and skipped members of each container read as a whole."""
    found = {item.path: counts[item.path] for item in items if is_whole(item)}
    return {CONTAINERS: {path: {"items": count.items, **count.skipped.to_json()} for path, count in found.items()}}


def read_notes(notes: Iterable[Mapping[str, Any]]) -> tuple[dict[str, int], Skipped]:
    """Return the number of images of each container that rounds have read as a whole, and its skipped members."""
    sizes: dict[str, int] = {}
    skipped = Skipped()
    for note in notes:
        for path, found in note.get(CONTAINERS, {}).items():
            sizes[path] = found["items"]
            skipped.merge(Skipped.from_json(found))
    return sizes, skipped


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
