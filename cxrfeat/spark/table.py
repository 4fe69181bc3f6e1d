"""Tables that are written round by round: ``round=N/status=ok|quarantined/*.parquet``, one idempotent commit a round."""

from __future__ import annotations

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from cxrfeat import storage


def read_table(spark: SparkSession, location: str, schema: pa.Schema) -> DataFrame:
    """Return a table, empty where there is no such folder."""
    spark_schema = from_arrow_schema(schema)
    if not storage.exists(location):
        return spark.createDataFrame([], spark_schema)
    return spark.read.schema(spark_schema).parquet(storage.to_spark(location))


def write_partition(rows: DataFrame, folder: str) -> None:
    """Write rows by ``status`` in place of all that is in the folder."""
    (
        rows.write.mode("overwrite")
        .partitionBy("status")
        .option("parquet.enable.dictionary#embedding.list.element", "false")  # float noise has no dictionary
        .parquet(storage.to_spark(folder))
    )


def round_folder(location: str, round_id: int) -> str:
    """Return the folder of a round."""
    return storage.join(location, f"round={round_id}")
