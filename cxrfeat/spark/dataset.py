"""An output folder: its tables, and what they promise.

``embeddings/round=N/status=ok|quarantined/*.parquet`` and ``metadata/status=ok|rejected/*.parquet``; beside them
``dataset.json`` (see :mod:`cxrfeat.spark.manifest`), ``summary.json`` and ``_checkpoint``, the stream's memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812
from pyspark.sql.pandas.types import from_arrow_schema

from cxrfeat import storage
from cxrfeat.errors import DatasetIntegrityError
from cxrfeat.schema import EMBEDDINGS, METADATA, METADATA_LINES, Augmentation, Status


class Dataset:
    """The tables of one output folder."""

    def __init__(self, spark: SparkSession, output: str) -> None:
        """Open an output folder, empty or not, by its qualified location."""
        self._spark = spark
        self.output = output
        self._embeddings = storage.join(output, "embeddings")
        self._metadata = storage.join(output, "metadata")

    def embeddings(self) -> DataFrame:
        """Return all rows of all rounds: :data:`cxrfeat.schema.EMBEDDINGS`."""
        return self._read(self._embeddings, EMBEDDINGS)

    def films(self) -> DataFrame:
        """Return one row a file, embedded or in quarantine."""
        return self.embeddings().where(F.col("augmentation") == Augmentation.NONE.value)

    def metadata(self) -> DataFrame:
        """Return all lines of the metadata file: :data:`cxrfeat.schema.METADATA_LINES`."""
        return self._read(self._metadata, METADATA_LINES)

    def write_metadata(self, lines: DataFrame) -> None:
        """Replace the metadata table. Rounds that are committed keep what they were joined with."""
        lines.select(METADATA_LINES.names).write.mode("overwrite").partitionBy("status").parquet(self._metadata)

    def write_round(self, rows: DataFrame, round_id: int, *, files: int) -> None:
        """Join a round's rows with their metadata and commit them, in place of any earlier attempt at the round.

        Args:
            rows: of :data:`cxrfeat.schema.EMBEDDED`.
            round_id: number of the round.
            files: Parquet files to write.
        """
        known = self.metadata().where(F.col("status") == Status.OK.value).select(METADATA.names)
        (
            rows.join(F.broadcast(known), "image_index", "left")
            .select([name for name in EMBEDDINGS.names if name != "round"])
            .repartition(files)
            .sortWithinPartitions("image_path", "augmentation")
            .write.mode("overwrite")
            .partitionBy("status")
            .option("parquet.enable.dictionary#embedding.list.element", "false")  # float noise has no dictionary
            .parquet(f"{self._embeddings}/round={round_id}")
        )

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
        lost = paths.join(table, "image_path", "left_anti")
        self._must_be_empty(lost, "image_path", "images were listed and have no row")
        twice = table.groupBy("image_path", "augmentation").count().where("count > 1")
        self._must_be_empty(twice, "image_path", "images have more than one row")
        if by_patient:
            torn = table.groupBy("patient_id").agg(F.count_distinct("split").alias("splits")).where("splits > 1")
            self._must_be_empty(
                torn.where("patient_id IS NOT NULL"), "patient_id", "patients are in more than one split"
            )

    def _must_be_empty(self, broken: DataFrame, column: str, promise: str) -> None:
        first = [row[column] for row in broken.orderBy(column).take(5)]
        if first:
            raise DatasetIntegrityError(f"{broken.count()} {promise} in {self._embeddings}; the first: {first}")

    def _read(self, location: str, schema: pa.Schema) -> DataFrame:
        spark_schema = from_arrow_schema(schema)
        if not storage.exists(location):
            return self._spark.createDataFrame([], spark_schema)
        return self._spark.read.schema(spark_schema).parquet(location)
