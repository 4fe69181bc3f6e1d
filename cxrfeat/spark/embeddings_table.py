"""An output folder: its tables, and what they promise.

``embeddings/round=N/status=ok|quarantined/*.parquet`` and ``metadata/status=ok|rejected/*.parquet``; beside them
``dataset.json`` (see :mod:`cxrfeat.spark.manifest`), ``summary.json`` and ``_checkpoint``, the stream's memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812

from cxrfeat.errors import DatasetIntegrityError
from cxrfeat.io import storage
from cxrfeat.io.schema import EMBEDDINGS, METADATA, METADATA_LINES, Augmentation, Status
from cxrfeat.spark.table import read_table, round_folder, write_partition

_IN_FILES = [name for name in EMBEDDINGS.names if name != "round"]
"""Columns of a round's files; the folder's name gives the round."""

ROWS_PER_FILE = 2048
"""9 MB of 2048-d vectors. A default round makes two such files, so that a second core has something to write."""


class EmbeddingsTable:
    """The tables of one output folder."""

    def __init__(self, spark: SparkSession, output: str) -> None:
        """Open an output folder, empty or not, by its qualified location."""
        self._spark = spark
        self.output = output
        self._embeddings = storage.join(output, "embeddings")
        self._metadata = storage.join(output, "metadata")
        self._replay = storage.join(output, "_replay")

    def embeddings(self) -> DataFrame:
        """Return all rows of all rounds: :data:`cxrfeat.io.schema.EMBEDDINGS`."""
        return read_table(self._spark, self._embeddings, EMBEDDINGS)

    def count_images(self, status: Status | None = None) -> int:
        """Count the files that have a row, or one of that status."""
        if not storage.exists(self._embeddings):
            return 0  # Spark would need half a second to say so
        images = self.images()
        return images.count() if status is None else images.where(F.col("status") == status.value).count()

    def has_metadata(self) -> bool:
        """Say whether there is a metadata table."""
        return storage.exists(self._metadata)

    def images(self) -> DataFrame:
        """Return one row a file, embedded or in quarantine."""
        return self.embeddings().where(F.col("augmentation") == Augmentation.NONE.value)

    def metadata(self) -> DataFrame:
        """Return all lines of the metadata file: :data:`cxrfeat.io.schema.METADATA_LINES`."""
        return read_table(self._spark, self._metadata, METADATA_LINES)

    def write_metadata(self, lines: DataFrame) -> None:
        """Replace the metadata table. Rounds that are committed keep what they were joined with."""
        write_partition(lines.select(METADATA_LINES.names), self._metadata)

    def write_round(self, rows: DataFrame, round_id: int, count: int) -> None:
        """Join a round's rows with their metadata and commit them, in place of any earlier attempt at the round.

        Args:
            rows: of :data:`cxrfeat.io.schema.EMBEDDED`.
            round_id: number of the round.
            count: how many rows there will be, at most.
        """
        self._write(self._with_metadata(rows), round_folder(self._embeddings, round_id), count)

    def replay_quarantine(self, embed: Callable[[Sequence[str]], DataFrame]) -> None:
        """Try again what is in quarantine, and replace each round that has some.

        A round's good rows are copied, not made again: their files may be gone by now. The new round is complete in
        ``_replay`` before the old one is touched, so a kill leaves one of the two whole; see :meth:`finish_replay`.

        Args:
            embed: turns image paths into a table of :data:`cxrfeat.io.schema.EMBEDDED`.
        """
        quarantined = F.col("status") == Status.QUARANTINED.value
        rows = self.embeddings().where(quarantined).select("round", "image_path").collect()
        for round_id in sorted({row["round"] for row in rows}):
            again = [row.image_path for row in rows if row["round"] == round_id]
            kept = self.embeddings().where((F.col("round") == round_id) & ~quarantined).select(_IN_FILES)
            replaced = kept.unionByName(self._with_metadata(embed(again)))
            self._write(replaced, round_folder(self._replay, round_id), kept.count() + len(again))
            self.finish_replay()

    def finish_replay(self) -> None:
        """Put rounds in place that a replay had completed when it was killed, and forget those it had not."""
        for folder in storage.list_folders(self._replay):
            staged = storage.join(self._replay, folder)
            if storage.exists(storage.join(staged, "_SUCCESS")):
                rows = read_table(self._spark, staged, EMBEDDINGS).select(_IN_FILES)
                self._write(rows, storage.join(self._embeddings, folder), rows.count())
            storage.delete_folder(staged)

    def _with_metadata(self, rows: DataFrame) -> DataFrame:
        return join_metadata(rows, self.metadata()).select(_IN_FILES)

    @staticmethod
    def _write(rows: DataFrame, folder: str, count: int) -> None:
        files = max(1, -(-count // ROWS_PER_FILE))
        write_partition(rows.repartition(files).sortWithinPartitions("image_path", "augmentation"), folder)

    def check(self, listed: Sequence[str], *, by_patient: bool) -> None:
        """Check what the table promises.

        Args:
            listed: image paths that must have a row, relative to the images root.
            by_patient: whether splits keep patients together.

        Raises:
            DatasetIntegrityError: a listed image without a row, a row twice, or a patient in two splits.
        """
        table = self.embeddings()
        paths = self._spark.createDataFrame(pa.table({"image_path": pa.array(listed, pa.string())}))
        broken = {
            "images were listed and have no row": paths.join(table, "image_path", "left_anti").select("image_path"),
            "images have more than one row": (
                table.groupBy("image_path", "augmentation").count().where("count > 1").select("image_path")
            ),
        }
        if by_patient:
            broken["patients are in more than one split"] = (
                table.where("patient_id IS NOT NULL")
                .groupBy("patient_id")
                .agg(F.count_distinct("split").alias("splits"))
                .where("splits > 1")
                .select("patient_id")
            )
        # One question for all: Spark plans each longer than it answers it.
        found = [names.toDF("name").withColumn("promise", F.lit(promise)) for promise, names in broken.items()]
        first = functools.reduce(DataFrame.union, found).orderBy("promise", "name").take(5)
        if first:
            promise = first[0]["promise"]
            names = [row["name"] for row in first if row["promise"] == promise]
            raise DatasetIntegrityError(
                f"{broken[promise].count()} {promise} in {self._embeddings}; the first: {names}"
            )


def join_metadata(rows: DataFrame, lines: DataFrame) -> DataFrame:
    """Give each row of :data:`cxrfeat.io.schema.EMBEDDED` what the accepted lines of the metadata say of its image."""
    known = lines.where(F.col("status") == Status.OK.value).drop(*(set(METADATA_LINES.names) - set(METADATA.names)))
    return rows.join(F.broadcast(known), "image_index", "left")
