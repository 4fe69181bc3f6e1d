"""The rules of :mod:`cxrfeat.labels.splits` as Spark SQL, and the official lists of file names."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F  # noqa: N812

from cxrfeat.errors import MetadataError
from cxrfeat.io import storage
from cxrfeat.io.schema import Split
from cxrfeat.labels import splits
from cxrfeat.labels.splits import HASH_DIGITS, SALT, SplitLevel, SplitRule


def assign_splits(spark: SparkSession, images: DataFrame, rule: SplitRule) -> DataFrame:
    """Add the column split (train, val or test) to rows with image_index and patient_id.

    With official lists a patient goes where the lists have its images; a patient that is in no list goes by hash, as
    all do without lists.

    Raises:
        MetadataError: a list without names, or lists that disagree about a patient; the message names five.
    """
    if rule.level == SplitLevel.IMAGE:
        return images.withColumn("split", split_by_hash("image_index"))
    if rule.train_val_list is None or rule.test_list is None:
        return images.withColumn("split", split_by_hash("patient_id"))
    listed = _read_list(spark, rule.train_val_list, "train_val").union(_read_list(spark, rule.test_list, "test"))
    patient = Window.partitionBy("patient_id")
    joined = (
        images.join(F.broadcast(listed.groupBy("image_index").agg(F.collect_set("list").alias("lists"))), "image_index", "left")
        .withColumn("lists", F.array_distinct(F.flatten(F.collect_set("lists").over(patient))))
        .withColumn("split", _split_by_lists())
    )  # fmt: skip
    _check_lists_agree(joined, rule)
    return joined.drop("lists")


def split_by_hash(key: str) -> Column:
    """Equal :func:`cxrfeat.labels.splits.split_by_hash` of a string column."""
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
        raise MetadataError(f"{path} names no image; expected one file name a line")
    return names.withColumn("list", F.lit(name))


def _check_lists_agree(joined: DataFrame, rule: SplitRule) -> None:
    torn = joined.where(F.size("lists") > 1).select("patient_id").distinct().orderBy("patient_id")
    patients = [row.patient_id for row in torn.take(5)]
    if patients:
        raise MetadataError(
            f"{torn.count()} patients have images in both {rule.train_val_list} and {rule.test_list}, "
            f"the first: {patients}; an official split keeps a patient on one side"
        )
