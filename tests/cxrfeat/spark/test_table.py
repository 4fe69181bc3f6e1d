"""A round's folder is replaced, partitioned by status, and has byte-split floats without a dictionary."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from cxrfeat.spark.table import read_table, round_folder, write_partition

SCHEMA = pa.schema(
    {
        "name": pa.string(),
        "score": pa.float32(),
        "vector": pa.list_(pa.field("element", pa.float32())),
        "round": pa.int32(),
        "status": pa.string(),
    }
)


def test_a_round_replaces_its_folder_and_reads_back(spark: SparkSession, tmp_path: Path) -> None:
    """Rows come back with round and status; a second attempt leaves nothing of the first; strings keep a dictionary."""
    for names in (["a", "b", "c"], ["d", "d"]):
        rows = [(name, 0.5, [1.0, 2.0], "ok" if name != "b" else "quarantined") for name in names]
        frame = spark.createDataFrame(rows, "name string, score float, vector array<float>, status string")
        write_partition(frame.coalesce(1), round_folder(str(tmp_path), 7))
    table = read_table(spark, str(tmp_path), SCHEMA).toArrow()
    assert table.schema.names == SCHEMA.names
    assert table.to_pylist() == [{"name": "d", "score": 0.5, "vector": [1.0, 2.0], "round": 7, "status": "ok"}] * 2
    (file,) = (tmp_path / "round=7").rglob("*.parquet")
    group = pq.read_metadata(file).row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i).has_dictionary_page for i in range(group.num_columns)}
    assert columns == {"name": True, "score": False, "vector.list.element": False}
    for index in range(1, group.num_columns):
        assert "BYTE_STREAM_SPLIT" in group.column(index).encodings


@pytest.mark.parametrize("vectorized", ["true", "false"])
def test_spark_and_pyarrow_read_the_same_floats(spark: SparkSession, tmp_path: Path, vectorized: str) -> None:
    """Both of Spark's readers know the encoding; every bit comes back, of odd numbers too."""
    drawn = np.random.default_rng(0).standard_normal((5, 300), dtype=np.float32)
    drawn[0, :6] = [0.0, -0.0, np.inf, -np.inf, 1e-45, 3.4e38]
    rows = pa.table({"vector": pa.array(list(drawn), pa.list_(pa.float32())), "status": ["ok"] * 5})
    write_partition(spark.createDataFrame(rows).coalesce(1), str(tmp_path / "table"))
    (file,) = (tmp_path / "table").rglob("*.parquet")
    spark.conf.set("spark.sql.parquet.enableVectorizedReader", vectorized)
    try:
        by_spark = spark.read.parquet(str(file)).toArrow()
    finally:
        spark.conf.unset("spark.sql.parquet.enableVectorizedReader")
    for table in (by_spark, pq.read_table(file)):
        np.testing.assert_array_equal(np.stack(table["vector"].to_numpy()).view(np.uint32), drawn.view(np.uint32))


def test_a_table_that_is_not_there_is_empty(spark: SparkSession, tmp_path: Path) -> None:
    """With the columns of its schema."""
    empty = read_table(spark, str(tmp_path / "nowhere"), SCHEMA)
    assert (empty.columns, empty.count()) == (SCHEMA.names, 0)
