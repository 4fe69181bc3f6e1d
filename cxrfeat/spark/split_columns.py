"""Spark SQL version of :mod:`cxrfeat.labels.splits`, with support for official lists of file names."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F  # noqa: N812

from cxrfeat.errors import MetadataError
from cxrfeat.io import storage
from cxrfeat.io.schema import Split
from cxrfeat.labels import splits
from cxrfeat.labels.splits import HASH_DIGITS, SALT, SplitLevel, SplitRule


def assign_splits(spark: SparkSession, images: DataFrame, rule: SplitRule) -> DataFrame:
    """Add the column ``split`` (train, val or test) to rows with ``image_index`` and ``patient_id``.

    Official lists decide the split of every patient with an image in one of them. All other patients are split by a
    hash.

    Raises:
        MetadataError: a list is empty, or a patient has images in both lists; the message names up to five patients.
    """
    if rule.level == SplitLevel.IMAGE:
        return images.withColumn("split", split_by_hash("image_index"))
    if rule.train_val_list is None or rule.test_list is None:
        return images.withColumn("split", split_by_hash("patient_id"))
    listed = _read_list(spark, rule.train_val_list, "train_val").union(_read_list(spark, rule.test_list, "test"))
    patient = Window.partitionBy("patient_id")
    lists_of_image = listed.groupBy("image_index").agg(F.collect_set("list").alias("lists"))
    joined = (
        images.join(F.broadcast(lists_of_image), "image_index", "left")
        .withColumn("lists", F.array_distinct(F.flatten(F.collect_set("lists").over(patient))))
        .withColumn("split", _split_by_lists())
    )
    _check_lists_agree(joined, rule)
    return joined.drop("lists")


def split_by_hash(key: str) -> Column:
    """Return :func:`cxrfeat.labels.splits.split_by_hash` of a string column as a Spark expression."""
    fraction = _hash_fraction(key)
    return (
        F.when(fraction < splits.TRAIN_SHARE, Split.TRAIN.value)
        .when(fraction < splits.TRAIN_SHARE + splits.VAL_SHARE, Split.VAL.value)
        .otherwise(Split.TEST.value)
    )


def _split_by_lists() -> Column:
    in_val = _hash_fraction("patient_id") < splits.VAL_SHARE_OF_TRAIN_VAL
    return (
        F.when(F.array_contains("lists", "test"), Split.TEST.value)
        .when(F.array_contains("lists", "train_val"), F.when(in_val, Split.VAL.value).otherwise(Split.TRAIN.value))
        .otherwise(split_by_hash("patient_id"))
    )


def _hash_fraction(key: str) -> Column:
    digest = F.sha2(F.concat(F.lit(SALT), F.col(key)), 256)
    return F.conv(F.substring(digest, 1, HASH_DIGITS), 16, 10).cast("double") / F.lit(float(16**HASH_DIGITS))


def _read_list(spark: SparkSession, path: str, name: str) -> DataFrame:
    names = (
        spark.read.text(storage.to_spark(path)).select(F.trim("value").alias("image_index")).where("image_index != ''")
    )
    if names.isEmpty():
        raise MetadataError(f"{path} is empty; expected one file name per line")
    return names.withColumn("list", F.lit(name))


def _check_lists_agree(joined: DataFrame, rule: SplitRule) -> None:
    in_both = joined.where(F.size("lists") > 1).select("patient_id").distinct().orderBy("patient_id")
    patients = [str(row.patient_id) for row in in_both.take(5)]
    if patients:
        raise MetadataError(
            f"{in_both.count()} patients have images in both {rule.train_val_list} and {rule.test_list}; "
            f"expected each patient in one list only. The first: {', '.join(patients)}"
        )
