"""Tables that are written round by round: ``round=N/status=ok|quarantined/*.parquet``, one idempotent commit a round."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import ArrayType, FloatType, StructType

from cxrfeat.io import storage


def read_table(spark: SparkSession, location: str, schema: pa.Schema) -> DataFrame:
    """Return a table, empty where there is no such folder."""
    if not storage.exists(location):
        return spark.createDataFrame(schema.empty_table())  # a list, even an empty one, would start Python workers
    return spark.read.schema(from_arrow_schema(schema)).parquet(storage.to_spark(location))


def write_partition(rows: DataFrame, folder: str) -> None:
    """Write rows by ``status`` in place of all that is in the folder."""
    # First bytes of floats are alike, last ones are noise: apart they compress better. Spark 4.3's fast reader knows it.
    writer = rows.write.mode("overwrite").partitionBy("status").option("parquet.enable.bytestreamsplit", "true")
    for column in _float_columns(rows.schema):  # noise has no dictionary, and to look for one costs a fifth of a write
        writer = writer.option(f"parquet.enable.dictionary#{column}", "false")
    writer.parquet(storage.to_spark(folder))


def _float_columns(schema: StructType) -> Iterator[str]:
    """Yield the columns of floats, as Parquet names them."""
    for field in schema:
        if isinstance(field.dataType, FloatType):
            yield field.name
        elif isinstance(field.dataType, ArrayType) and isinstance(field.dataType.elementType, FloatType):
            yield f"{field.name}.list.element"


def round_folder(location: str, round_id: int) -> str:
    """Return the folder of a round."""
    return storage.join(location, f"round={round_id}")
