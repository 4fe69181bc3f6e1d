"""Tables written round by round, with idempotent commits, to ``round=N/status=ok|quarantined/*.parquet``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.dataset as pads
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import ArrayType, FloatType, StructType

from cxrfeat.io import storage


def read_table(spark: SparkSession, location: str, schema: pa.Schema) -> DataFrame:
    """Return the table in a folder, empty if the folder does not exist."""
    if not storage.exists(location):
        return spark.createDataFrame(schema.empty_table())  # an empty list would start Python workers
    return spark.read.schema(from_arrow_schema(schema)).parquet(storage.to_spark(location))


def read_columns(location: str, schema: pa.Schema, columns: Sequence[str]) -> pa.Table:
    """Return small columns of the table in a folder, read on the driver; empty if the folder does not exist.

    Spark needs longer to plan a query than pyarrow to read all columns but the embeddings of 100,000 images.
    """
    if not storage.exists(location):
        return schema.empty_table().select(columns)
    filesystem, path = storage.open_filesystem(location)
    partitions = pads.partitioning(pa.schema([("round", pa.int32()), ("status", pa.string())]), flavor="hive")
    dataset = pads.dataset(path, schema, "parquet", filesystem, partitions)
    return dataset.to_table(columns=list(columns))


def write_partition(rows: DataFrame, folder: str) -> None:
    """Write rows partitioned by ``status``, replacing the contents of the folder."""
    # High bytes of floats are alike, low ones are noise: as separate streams they compress better.
    writer = rows.write.mode("overwrite").partitionBy("status").option("parquet.enable.bytestreamsplit", "true")
    for column in _float_columns(rows.schema):  # floats do not repeat; trying a dictionary costs a fifth of a write
        writer = writer.option(f"parquet.enable.dictionary#{column}", "false")
    writer.parquet(storage.to_spark(folder))


def _float_columns(schema: StructType) -> Iterator[str]:
    """Yield the Parquet names of all float columns and float lists."""
    for field in schema:
        if isinstance(field.dataType, FloatType):
            yield field.name
        elif isinstance(field.dataType, ArrayType) and isinstance(field.dataType.elementType, FloatType):
            yield f"{field.name}.list.element"


def round_folder(location: str, round_id: int) -> str:
    """Return the folder of a round."""
    return storage.join(location, f"round={round_id}")
