"""Tables of an extraction's output folder: writing, replaying the quarantine, and integrity checks.

The tables are ``embeddings/round=N/status=ok|quarantined/*.parquet`` and ``metadata/status=ok|rejected/*.parquet``.
Beside them are ``dataset.json`` (see :mod:`cxrfeat.spark.manifest`), ``summary.json`` and ``_checkpoint``, the state of
the file stream.
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

_FILE_COLUMNS = [name for name in EMBEDDINGS.names if name != "round"]
"""Columns stored in a round's files; ``round`` itself is in the folder name."""

ROWS_PER_FILE = 2048
"""About 9 MB of 2048-d vectors. A default round has two such files, so that two cores can write."""


class EmbeddingsTable:
    """Embeddings and metadata of one output folder."""

    def __init__(self, spark: SparkSession, output: str) -> None:
        """Use the output folder at a qualified location; it may be empty."""
        self._spark = spark
        self.output = output
        self._embeddings = storage.join(output, "embeddings")
        self._metadata = storage.join(output, "metadata")
        self._replay = storage.join(output, "_replay")

    def embeddings(self) -> DataFrame:
        """Return all rows of all rounds: :data:`cxrfeat.io.schema.EMBEDDINGS`."""
        return read_table(self._spark, self._embeddings, EMBEDDINGS)

    def count_images(self, status: Status | None = None) -> int:
        """Count the images in the table, or those with the given status."""
        if not storage.exists(self._embeddings):
            return 0  # saves the half second that Spark needs to plan an empty table
        images = self.images()
        return images.count() if status is None else images.where(F.col("status") == status.value).count()

    def has_metadata(self) -> bool:
        """Return True if the metadata table exists."""
        return storage.exists(self._metadata)

    def images(self) -> DataFrame:
        """Return one row per file, embedded or quarantined, without augmented rows."""
        return self.embeddings().where(F.col("augmentation") == Augmentation.NONE.value)

    def metadata(self) -> DataFrame:
        """Return all lines of the metadata file: :data:`cxrfeat.io.schema.METADATA_LINES`."""
        return read_table(self._spark, self._metadata, METADATA_LINES)

    def write_metadata(self, lines: DataFrame) -> None:
        """Replace the metadata table. Committed rounds keep the metadata that they were joined with."""
        write_partition(lines.select(METADATA_LINES.names), self._metadata)

    def write_round(self, rows: DataFrame, round_id: int, count: int) -> None:
        """Join a round's rows with their metadata and commit them, replacing any earlier attempt at the round.

        Args:
            rows: table of :data:`cxrfeat.io.schema.EMBEDDED`.
            round_id: number of the round.
            count: upper limit of the number of rows.
        """
        self._write(self._with_metadata(rows), round_folder(self._embeddings, round_id), count)

    def replay_quarantine(self, embed: Callable[[Sequence[str]], DataFrame]) -> None:
        """Embed the quarantined files again, and replace each round that contains any.

        The good rows of a round are copied, not recomputed, because their files may no longer exist. The new round is
        complete in ``_replay`` before the old one is deleted, so a killed job leaves one complete copy; see
        :meth:`finish_replay`.

        Args:
            embed: function from image paths to a table of :data:`cxrfeat.io.schema.EMBEDDED`.
        """
        quarantined = F.col("status") == Status.QUARANTINED.value
        rows = self.embeddings().where(quarantined).select("round", "image_path").collect()
        for round_id in sorted({row["round"] for row in rows}):
            paths = [row.image_path for row in rows if row["round"] == round_id]
            kept = self.embeddings().where((F.col("round") == round_id) & ~quarantined).select(_FILE_COLUMNS)
            replaced = kept.unionByName(self._with_metadata(embed(paths)))
            self._write(replaced, round_folder(self._replay, round_id), kept.count() + len(paths))
            self.finish_replay()

    def finish_replay(self) -> None:
        """Finish an interrupted replay: move its complete rounds into the table and delete incomplete ones."""
        for folder in storage.list_folders(self._replay):
            staged = storage.join(self._replay, folder)
            if storage.exists(storage.join(staged, "_SUCCESS")):
                rows = read_table(self._spark, staged, EMBEDDINGS).select(_FILE_COLUMNS)
                self._write(rows, storage.join(self._embeddings, folder), rows.count())
            storage.delete_folder(staged)

    def _with_metadata(self, rows: DataFrame) -> DataFrame:
        return join_metadata(rows, self.metadata()).select(_FILE_COLUMNS)

    @staticmethod
    def _write(rows: DataFrame, folder: str, count: int) -> None:
        files = max(1, -(-count // ROWS_PER_FILE))
        write_partition(rows.repartition(files).sortWithinPartitions("image_path", "augmentation"), folder)

    def check(self, listed: Sequence[str], *, by_patient: bool) -> None:
        """Check that every listed image has exactly one row and, with ``by_patient``, that no patient is in two splits.

        Args:
            listed: image paths that must have a row, relative to the images root.
            by_patient: check also that each patient is in one split only.

        Raises:
            DatasetIntegrityError: an image has no row or several, or a patient is in several splits.
        """
        table = self.embeddings()
        paths = self._spark.createDataFrame(pa.table({"image_path": pa.array(listed, pa.string())}))
        violations = {
            "listed images have no row": paths.join(table, "image_path", "left_anti").select("image_path"),
            "images have more than one row": (
                table.groupBy("image_path", "augmentation").count().where("count > 1").select("image_path")
            ),
        }
        if by_patient:
            violations["patients are in more than one split"] = (
                table.where("patient_id IS NOT NULL")
                .groupBy("patient_id")
                .agg(F.count_distinct("split").alias("splits"))
                .where("splits > 1")
                .select("patient_id")
            )
        # A single query for all checks, because planning one takes Spark longer than running it.
        found = [names.toDF("name").withColumn("kind", F.lit(kind)) for kind, names in violations.items()]
        first = functools.reduce(DataFrame.union, found).orderBy("kind", "name").take(5)
        if first:
            kind = first[0]["kind"]
            names = ", ".join(row["name"] for row in first if row["kind"] == kind)
            raise DatasetIntegrityError(f"{violations[kind].count()} {kind} in {self._embeddings}; the first: {names}")


def join_metadata(rows: DataFrame, lines: DataFrame) -> DataFrame:
    """Join rows of :data:`cxrfeat.io.schema.EMBEDDED` with the accepted metadata lines by ``image_index``."""
    known = lines.where(F.col("status") == Status.OK.value).drop(*(set(METADATA_LINES.names) - set(METADATA.names)))
    return rows.join(F.broadcast(known), "image_index", "left")
