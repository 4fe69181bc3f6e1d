"""Stage 1 of the pipeline: embed a folder of images into ``OUT/embeddings``, round by round."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

from pyspark import Accumulator
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812

from cxrfeat.backbones.encoder import EncoderFactory, EncoderSpec, open_encoder
from cxrfeat.device import Engine
from cxrfeat.errors import ConfigError
from cxrfeat.images.candidates import SUFFIXES
from cxrfeat.io import storage
from cxrfeat.io.output_lock import hold_output
from cxrfeat.io.refs import ImageRef, is_whole
from cxrfeat.io.round_log import CHECKPOINT, RoundLog
from cxrfeat.io.schema import Augmentation, Status
from cxrfeat.labels.image_metadata import ImageMetadata
from cxrfeat.labels.splits import SplitLevel, SplitRule
from cxrfeat.pipeline.embed import ViewPlan
from cxrfeat.pipeline.image_source import ImageLister, Listing, Source, find_items, require_items
from cxrfeat.spark.embedding import (
    EmbeddingConfig,
    embedded_round,
    load_metadata,
    note_containers,
    prepare_encoder,
    read_notes,
)
from cxrfeat.spark.embeddings_table import EmbeddingsTable
from cxrfeat.spark.job_progress import JobProgress
from cxrfeat.spark.manifest import check_identifiers, check_manifest, describe_split
from cxrfeat.spark.rounds import RoundPlan, estimate_images, run_interruptibly, run_rounds
from cxrfeat.spark.session import check_connectors, count_slots
from cxrfeat.spark.summary import ExtractionSummary, write_summary
from cxrfeat.spark.worker import ContainerCounts, EmbedTask, MergeCounts

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExtractConfig:
    """Settings of one extraction; ``cxrfeat extract --help`` describes the options.

    Attributes:
        embedding: images to embed and the network that embeds them.
        output: folder or URI of the data set.
        split: rule that assigns images to train, val and test.
        augment: augmented rows of every image, in addition to its plain row.
        views: views of the training images, in addition to the plain row; see :mod:`cxrfeat.images.views`.
        view_seed: seed of the affine views.
        max_unmatched: largest share of images that may be in neither official list, 0 to 1.
        round_size: images per commit.
        watch: seconds between scans of the images folder, or None to stop after the files that exist now.
        replay_quarantine: embed the quarantined files again first.
        rounds: settings of the rounds, derived from the others.

    Raises ConfigError for invalid values.
    """

    embedding: EmbeddingConfig
    output: str
    split: SplitRule = field(default_factory=SplitRule)
    augment: tuple[Augmentation, ...] = ()
    views: tuple[str, ...] = ()
    view_seed: int = 0
    max_unmatched: float = 0.01
    round_size: int = 4096
    watch: float | None = None
    replay_quarantine: bool = False
    rounds: RoundPlan = field(init=False)

    def __post_init__(self) -> None:
        """Qualify the folders and check that the values are consistent."""
        images, output = self.embedding.images, storage.qualify(self.output)
        if f"{output}/".startswith(f"{images}/"):
            raise ConfigError(f"output {output!r} is inside the images folder {images!r}")
        has_metadata = bool(self.embedding.metadata) or self.embedding.webdataset_metadata
        if not has_metadata and self.split != SplitRule():
            raise ConfigError("split options need --metadata, which names the patient of each image")
        if self.augment and self.views:
            raise ConfigError("--augment and --views cannot be combined; --views hflip,… has the mirrored view too")
        if self.views and not has_metadata:
            raise ConfigError("--views need --metadata: only training images get views")
        object.__setattr__(self, "output", output)
        object.__setattr__(self, "rounds", RoundPlan(self.round_size, self.watch))

    @property
    def view_names(self) -> tuple[str, ...]:
        """All rows of a training image: the plain row first, then the views."""
        return (Augmentation.NONE.value, *(augmentation.value for augmentation in self.augment), *self.views)


def extract(spark: SparkSession, config: ExtractConfig, factory: EncoderFactory = open_encoder) -> ExtractionSummary:
    """Embed every image that is not in the output yet, and return the summary of the whole output.

    Args:
        spark: session that runs the job.
        config: settings of the extraction.
        factory: function that builds the encoder in each worker.

    Raises:
        CxrfeatError: settings, weights or metadata are invalid, or the output was written with other settings, or
            another job is at work on it.
        WorkerError: a task failed; run the job again to continue.
        DatasetIntegrityError: the output is inconsistent; see :meth:`EmbeddingsTable.check`.
    """
    check_connectors(spark, config.output)
    with contextlib.ExitStack() as stack:
        return _extract(spark, config, factory, stack)


def _extract(
    spark: SparkSession, config: ExtractConfig, factory: EncoderFactory, stack: contextlib.ExitStack
) -> ExtractionSummary:
    images = config.embedding.images
    _LOG.info("listing %s", images)
    source = Source(ImageLister(images))
    if config.watch is None:
        require_items(source.listing, images, "image", SUFFIXES)
    listed = [item.key for item in source.listing.items]
    known = load_metadata(config.embedding, source.listing.items, rule=config.split, max_unmatched=config.max_unmatched)
    spec = prepare_encoder(spark, config.embedding)
    stack.enter_context(hold_output(config.output))  # after all checks: a refused job leaves nothing behind
    check_manifest(config.output, _settings(config, spec), _origin(known))
    pseudonyms = config.embedding.load_pseudonyms(source.listing.items, watching=config.watch is not None)
    check_identifiers(config.output, pseudonyms)
    dataset = EmbeddingsTable(spark, config.output, known.matcher if known else None)
    log = RoundLog(storage.join(config.output, CHECKPOINT), images)
    dataset.finish_replay()
    if known is not None:
        dataset.write_metadata(known.metadata.lines)
    total = None if config.watch or any(map(is_whole, source.listing.items)) else len(listed)
    _LOG.info("embedding with %s", spec.fingerprint)
    done = dataset.count_images(Status.OK if config.replay_quarantine else None)
    with JobProgress(spark.sparkContext, total=total, done=done, watching=config.watch is not None) as progress:
        containers: Accumulator[ContainerCounts] = spark.sparkContext.accumulator({}, MergeCounts())
        task = EmbedTask(
            images,
            spec,
            ViewPlan(config.view_names, config.view_seed),
            config.embedding.device,
            factory,
            progress.done,
            progress.quarantined,
            containers,
            config.embedding.read_options(pseudonyms),
        )

        def embed(items: Sequence[ImageRef]) -> AbstractContextManager[tuple[DataFrame, list[str]]]:
            return _embed_views(spark, items, task, known if config.views else None, needs_paths=known is not None)

        def commit(items: Sequence[ImageRef], round_id: int) -> Mapping[str, object]:
            with embed(items) as (rows, paths):
                dataset.write_round(rows, round_id, paths, estimate_images(items) * len(config.view_names))
            notes = note_containers(items, containers.value)
            if config.watch is not None:
                _summarise(dataset, spec, source.listing, [*log.notes.values(), notes], known)
            return notes

        def run(stop: threading.Event) -> None:
            if config.replay_quarantine:
                dataset.replay_quarantine(lambda paths: embed(find_items(source.listing, paths)))
            plan = replace(config.rounds, slots=count_slots(spark))
            run_rounds(log, plan, source.list_new, commit, stop)

        run_interruptibly(spark, run)
    _LOG.info("checking the output and writing the summary")
    wholes = {item.path for item in source.listing.items if is_whole(item)}
    sizes, _ = read_notes(log.notes.values())
    by_patient = config.split.level == SplitLevel.PATIENT
    dataset.check([key for key in listed if key not in wholes], sizes, by_patient=by_patient)
    return _summarise(dataset, spec, source.listing, log.notes.values(), known)


def _summarise(
    dataset: EmbeddingsTable,
    spec: EncoderSpec,
    listing: Listing,
    notes: Iterable[Mapping[str, object]],
    known: ImageMetadata | None,
) -> ExtractionSummary:
    """Write the summary, with the skipped files of the listing and the skipped members that the log has noted."""
    _, skipped = read_notes(notes)
    skipped.merge(listing.skipped)
    return write_summary(dataset, spec.fingerprint, skipped, known)


@contextlib.contextmanager
def _embed_views(
    spark: SparkSession,
    items: Sequence[ImageRef],
    task: EmbedTask,
    known: ImageMetadata | None,
    *,
    needs_paths: bool,
) -> Iterator[tuple[DataFrame, list[str]]]:
    """Embed a round; with ``known``, only training images get more than the plain row."""
    streamed = any(map(is_whole, items))
    if known is not None and not streamed:
        plain = known.list_outside_training([item.key for item in items])
        task = replace(task, plan=replace(task.plan, plain=plain))
    with embedded_round(spark, items, task, needs_paths=needs_paths) as (rows, paths):
        if known is not None and streamed:  # the paths were unknown before: views that are not wanted are dropped
            outside = known.list_outside_training(paths)
            in_plain_row = F.col("augmentation") == Augmentation.NONE.value
            yield rows.where(in_plain_row | ~F.col("image_path").isin(*outside)), paths
        else:
            yield rows, paths


def _origin(known: ImageMetadata | None) -> Mapping[str, str]:
    """Return what ``dataset.json`` records without comparing it: the dialect of the first metadata."""
    return {"metadata_columns": known.metadata.column_map.name} if known else {}


def _settings(config: ExtractConfig, spec: EncoderSpec) -> Mapping[str, object]:
    """Return the settings that all runs into one output must share."""
    return {
        "images": config.embedding.images,
        "extractor": spec.fingerprint,
        "augmentations": list(config.view_names),
        "split": describe_split(config.split),
        "weights_sha256": spec.weights.digest,
        **({"engine": spec.engine.value} if spec.engine == Engine.OPENVINO else {}),
        **({"view_seed": config.view_seed} if config.views else {}),
    }
