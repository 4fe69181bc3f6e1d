"""Stage 3 of the pipeline: score Parquet drops, or images, into ``PRED/predictions``, round by round."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

from pyspark import Accumulator
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from cxrfeat.backbones.encoder import EncoderFactory, open_encoder
from cxrfeat.backbones.weights import check_backbone
from cxrfeat.errors import ConfigError
from cxrfeat.head.bundle import parse_bundle, read_bundle
from cxrfeat.head.predictor import Predictor
from cxrfeat.head.thresholds import DEFAULT_RULE
from cxrfeat.images.candidates import SUFFIXES
from cxrfeat.images.header import Pseudonyms
from cxrfeat.io import storage
from cxrfeat.io.output_lock import hold_output
from cxrfeat.io.refs import ImageRef, is_whole
from cxrfeat.io.round_log import CHECKPOINT, RoundLog
from cxrfeat.io.schema import ROW_GROUP
from cxrfeat.labels.matching import ImageMatcher
from cxrfeat.pipeline import parquet_drops
from cxrfeat.pipeline.embed import ViewPlan
from cxrfeat.pipeline.image_source import ImageLister, Listing, Source, list_drops, require_items
from cxrfeat.spark.embedding import (
    EmbeddingConfig,
    embedded_round,
    load_metadata,
    note_containers,
    prepare_encoder,
    read_notes,
    resolve_backbone,
)
from cxrfeat.spark.embeddings_table import join_metadata
from cxrfeat.spark.job_progress import JobProgress
from cxrfeat.spark.manifest import check_identifiers, check_manifest
from cxrfeat.spark.predictions_table import PredictionsTable, ScoringSummary, check, summarise
from cxrfeat.spark.rounds import RoundPlan, run_interruptibly, run_rounds, to_handles
from cxrfeat.spark.session import check_connectors, count_slots
from cxrfeat.spark.worker import (
    AddSexes,
    BroadcastHead,
    EmbedTask,
    MergeCounts,
    OpenDropsTask,
    ScoreImagesTask,
    ScoreRowGroupsTask,
    SexCounts,
)

_LOG = logging.getLogger(__name__)

FILES_PER_OPENING_TASK = 16
"""A task reads a footer and a column of names per file: milliseconds on a disk, tens of them on an object store."""


@dataclass(frozen=True)
class ScoreConfig:
    """Settings of one scoring job; ``cxrfeat score --help`` describes the options.

    Attributes:
        source: folder or URI of drops, or, with ``embedding``, of images.
        head: folder or URI of the head's bundle.
        output: folder or URI of the predictions.
        operating_point: rule whose thresholds decide which findings are positive.
        round_size: files per commit.
        watch: seconds between scans of the source, or None to stop after the files that exist now.
        embedding: settings for embedding images; None for drops, which contain embeddings.
        rounds: settings of the rounds, derived from the others.

    Raises ConfigError for invalid values.
    """

    source: str
    head: str
    output: str
    operating_point: str = DEFAULT_RULE
    round_size: int = 256
    watch: float | None = None
    embedding: EmbeddingConfig | None = None
    rounds: RoundPlan = field(init=False)

    def __post_init__(self) -> None:
        """Qualify the folders and check that the values are consistent."""
        for name in ("source", "head", "output"):
            object.__setattr__(self, name, storage.qualify(getattr(self, name)))
        if f"{self.output}/".startswith(f"{self.source}/"):
            raise ConfigError(f"output {self.output!r} is inside the folder to score, {self.source!r}")
        object.__setattr__(self, "rounds", RoundPlan(self.round_size, self.watch))

    def make_lister(self) -> Callable[[Set[str]], Listing]:
        """Return the function that lists the drops, or the images."""
        if self.embedding is None:
            return lambda _: list_drops(self.source, parquet_drops.SUFFIXES)
        return ImageLister(self.source)


def score(spark: SparkSession, config: ScoreConfig, factory: EncoderFactory = open_encoder) -> ScoringSummary:
    """Score every file that is not in the output yet, and return the summary of the whole output.

    Args:
        spark: session that runs the job.
        config: settings of the job.
        factory: function that builds the encoder in each worker, for images.

    Raises:
        CxrfeatError: settings or head are invalid, or the output was written with other settings, or another job is at
            work on it.
        WorkerError: a task failed; run the job again to continue.
        DatasetIntegrityError: the output is inconsistent; see :func:`cxrfeat.spark.predictions_table.check`.
    """
    check_connectors(spark, config.output)
    with contextlib.ExitStack() as stack:
        return _score(spark, config, factory, stack)


def _score(
    spark: SparkSession, config: ScoreConfig, factory: EncoderFactory, stack: contextlib.ExitStack
) -> ScoringSummary:
    source = Source(config.make_lister())
    if config.watch is None:
        kind = ("drop", parquet_drops.SUFFIXES) if config.embedding is None else ("image", SUFFIXES)
        require_items(source.listing, config.source, *kind)
    listed = [item.key for item in source.listing.items]
    wholes = {item.path for item in source.listing.items if is_whole(item)}
    files = read_bundle(config.head)
    head = Predictor(parse_bundle(files), config.operating_point)  # checked on the driver, where an error is one line
    shipped = BroadcastHead(spark.sparkContext.broadcast(files), config.operating_point)
    predictions = PredictionsTable(spark, config.output, head.labels)
    watching = config.watch is not None
    task: EmbedTask | None = None
    pseudonyms: Pseudonyms | None = None
    if config.embedding is None:
        progress = JobProgress(spark.sparkContext, unit="row", watching=watching)  # the number of rows is unknown
        to_rows = _drops_scorer(spark, config.source, head, shipped, progress)
    else:
        total = None if watching or wholes else len(listed)
        progress = JobProgress(spark.sparkContext, total=total, done=predictions.count_files(), watching=watching)
        known = load_metadata(config.embedding, source.listing.items)
        pseudonyms = config.embedding.load_pseudonyms(source.listing.items, watching=watching)
        task = _embed_task(spark, config.embedding, head, progress, factory, pseudonyms=pseudonyms)
        to_rows = _images_scorer(spark, task, head, shipped, known.matcher if known else None)
    stack.enter_context(hold_output(config.output))  # after all checks: a refused job leaves nothing behind
    check_manifest(config.output, _settings(config, head))
    check_identifiers(config.output, pseudonyms)
    _LOG.info("scoring %s with %s", config.source, head.fingerprint)

    log = RoundLog(storage.join(config.output, CHECKPOINT), config.source)

    def commit(items: Sequence[ImageRef], round_id: int) -> Mapping[str, object]:
        with to_rows(items) as rows:
            predictions.write_round(rows, round_id)
        if watching:
            _, skipped = read_notes(log.notes.values())
            skipped.merge(source.listing.skipped)
            predictions.write_summary(summarise(predictions.count(), head.fingerprint, skipped))
        return note_containers(items, {} if task is None or task.containers is None else task.containers.value)

    plan = replace(config.rounds, slots=count_slots(spark))
    with progress:
        run_interruptibly(spark, lambda stop: run_rounds(log, plan, source.list_new, commit, stop))
    _LOG.info("checking the output and writing the summary")
    counts = predictions.count()
    sizes, skipped = read_notes(log.notes.values())
    skipped.merge(source.listing.skipped)
    check(counts, [key for key in listed if key not in wholes], sizes)
    summary = summarise(counts, head.fingerprint, skipped)
    predictions.write_summary(summary)
    return summary


def _settings(config: ScoreConfig, head: Predictor) -> Mapping[str, object]:
    """Return the settings that all runs into one output must share."""
    return {
        "scored": config.source,
        "suffixes": list(_KINDS[config.embedding is None]),
        "head": head.fingerprint,
        "extractor": head.bundle.extractor,
        "operating_point": config.operating_point,
    }


_KINDS = {True: (".parquet",), False: (".png", ".jpg", ".jpeg")}
"""Values of ``suffixes`` in ``dataset.json`` that tell drops (True) from images, whatever suffixes are read today."""

_Scorer = Callable[[Sequence[ImageRef]], AbstractContextManager[DataFrame]]
"""Function from the items of a round to the context of a lazy table of :func:`cxrfeat.io.schema.scored_schema`."""


def _drops_scorer(
    spark: SparkSession, root: str, head: Predictor, shipped: BroadcastHead, progress: JobProgress
) -> _Scorer:
    """Return a scorer whose workers read row groups themselves, so that only their handles pass through the JVM."""
    slots = count_slots(spark)
    open_drops = OpenDropsTask(root, shipped)
    sexes: Accumulator[SexCounts] = spark.sparkContext.accumulator({}, AddSexes())
    warned: set[str] = set()
    score_row_groups = ScoreRowGroupsTask(root, shipped, progress.done, progress.quarantined, sexes)

    @contextlib.contextmanager
    def to_rows(items: Sequence[ImageRef]) -> Iterator[DataFrame]:
        openers = min(slots, -(-len(items) // FILES_PER_OPENING_TASK))
        row_groups = to_handles(spark, items).repartition(openers).mapInArrow(open_drops, from_arrow_schema(ROW_GROUP))
        yield row_groups.repartition(slots).mapInArrow(score_row_groups, from_arrow_schema(head.schema))
        for path, (given, known) in sexes.value.items():
            if given and not known and path not in warned:
                warned.add(path)
                _LOG.warning(
                    "warning: %s: none of its %d sexes is known, so all are imputed; expected M, F, male or female",
                    path,
                    given,
                )

    return to_rows


def _embed_task(
    spark: SparkSession,
    config: EmbeddingConfig,
    head: Predictor,
    progress: JobProgress,
    factory: EncoderFactory,
    *,
    pseudonyms: Pseudonyms | None,
) -> EmbedTask:
    """Return the function that embeds images for a head, like the extraction.

    Raises:
        CxrfeatError: the backbone or its weights are not those of the head.
    """
    config = config.for_extractor(head.bundle.extractor)
    check_backbone(resolve_backbone(config), head.bundle.extractor)  # before any weights are downloaded
    spec = prepare_encoder(spark, config)
    head.bundle.check_extractor(spec.fingerprint)
    return EmbedTask(
        config.images,
        spec,
        ViewPlan(),
        config.device,
        factory,
        progress.done,
        progress.quarantined,
        spark.sparkContext.accumulator({}, MergeCounts()),
        config.read_options(pseudonyms),
    )


def _images_scorer(
    spark: SparkSession, embed: EmbedTask, head: Predictor, shipped: BroadcastHead, matcher: ImageMatcher | None
) -> _Scorer:
    """Return a scorer that embeds images, joins the metadata and scores without writing to disk."""
    score_images = ScoreImagesTask(shipped)

    @contextlib.contextmanager
    def to_rows(items: Sequence[ImageRef]) -> Iterator[DataFrame]:
        with embedded_round(spark, items, embed, needs_paths=matcher is not None) as (embedded, paths):
            images = join_metadata(spark, embedded, matcher, paths)
            yield images.mapInArrow(score_images, from_arrow_schema(head.schema))

    return to_rows
