"""Parse the metadata CSV in Spark SQL: one row per image, and a rejected row with a reason for every other line."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F  # noqa: N812

from cxrfeat.io import storage
from cxrfeat.io.schema import METADATA, Status
from cxrfeat.labels.columns import AGE_PATTERN, MAX_AGE_YEARS, UNITS_PER_YEAR, find_columns, split_fields
from cxrfeat.labels.findings import FINDINGS, NO_FINDING, SEPARATOR

_MALFORMED = "_malformed"


def read_metadata(spark: SparkSession, path: str) -> DataFrame:
    """Read a metadata CSV, plain or gzipped, and give every line after the header a status.

    Returns:
        One row per line with the columns of :data:`cxrfeat.io.schema.METADATA_LINES` except ``split``. No line is
        dropped.

    Raises:
        MetadataError: the file has no header, or the header lacks a required column.
    """
    lines = spark.read.text(storage.to_spark(path))
    first = lines.first()
    header = "" if first is None else first.value
    places = find_columns(path, header)
    schema = ", ".join(f"`{index}` STRING" for index in range(len(split_fields(header)))) + f", {_MALFORMED} STRING"
    options = {"columnNameOfCorruptRecord": _MALFORMED, "mode": "PERMISSIVE"}
    raw = (
        lines.where((F.col("value") != header) & (F.trim("value") != ""))
        .select(F.col("value").alias("line"), F.from_csv("value", schema, options).alias("field"))
        .select(
            "line",
            F.col(f"field.{_MALFORMED}").isNotNull().alias(_MALFORMED),
            *(
                F.nullif(F.trim(F.col(f"field.`{index}`")), F.lit("")).alias(f"{name}_raw")
                for name, index in places.items()
            ),
        )
    )
    return _reject_repeats(_reject_unreadable(_parse(raw))).select(
        *(name for name in METADATA.names if name != "split"),
        F.when(F.col("verdict").isNull(), Status.OK.value).otherwise(Status.REJECTED.value).alias("status"),
        "verdict.reason",
        "verdict.message",
        "line",
    )


def _parse(raw: DataFrame) -> DataFrame:
    """Add typed columns beside the raw ones; a value that cannot be parsed is null."""
    number = F.regexp_extract("age_raw", AGE_PATTERN, 1).try_cast("double")
    per_year = F.create_map(*(F.lit(part) for pair in UNITS_PER_YEAR.items() for part in pair))
    # Not F.trim itself: it has a second parameter, and transform would pass the index as the characters to trim.
    split = F.transform(F.split("findings_raw", rf"\{SEPARATOR}"), lambda label: F.trim(label))  # noqa: PLW0108
    labels = F.array_distinct(split)
    return (
        raw.withColumn("image_index", F.col("image_index_raw"))
        .withColumn("patient_id", F.col("patient_id_raw"))
        .withColumn("follow_up", F.col("follow_up_raw").try_cast("int"))
        .withColumn("age_years", (number / per_year[F.regexp_extract("age_raw", AGE_PATTERN, 2)]).cast("float"))
        .withColumn("sex", F.when(F.upper("sex_raw").isin("M", "F"), F.upper("sex_raw")))
        .withColumn("view_position", F.col("view_position_raw"))
        .withColumn("labels", labels)
        # array_intersect keeps the order of its first argument, so findings are in canonical order.
        .withColumn("findings", F.array_intersect(_all_findings(), F.col("labels")))
        .withColumn("unknown", F.array_except("labels", F.array_append(_all_findings(), F.lit(NO_FINDING))))
    )


def _all_findings() -> Column:
    return F.array(*map(F.lit, FINDINGS))


def _reject_unreadable(parsed: DataFrame) -> DataFrame:
    """Add ``verdict``: reason and message of the first check that the line fails, or null."""
    contradiction = F.array_contains("labels", NO_FINDING) & (F.size("labels") > 1)
    checks = (
        (F.col(_MALFORMED), "malformed", F.lit("the number of fields differs from the header's")),
        (F.col("image_index").isNull(), "image-index-missing", F.lit("Image Index is empty")),
        (F.col("patient_id").isNull(), "patient-id-missing", F.lit("Patient ID is empty")),
        (_unparsed("follow_up"), "follow-up-unreadable", _quote("follow_up", "; expected a whole number")),
        (
            _unparsed("age_years", "age_raw"),
            "age-unreadable",
            _quote("age", "; expected years, or a number with Y, M, W or D"),
        ),
        (
            ~F.col("age_years").between(0, MAX_AGE_YEARS),
            "age-out-of-range",
            _quote("age", f" is outside 0–{MAX_AGE_YEARS} years"),
        ),
        (_unparsed("sex"), "sex-unknown", _quote("sex", "; expected M, F or nothing")),
        (
            F.size("unknown") > 0,
            "finding-unknown",
            F.concat(F.lit("not among the 14 findings: "), F.array_join("unknown", ", ")),
        ),
        (contradiction, "findings-contradict", _quote("findings", f" combine {NO_FINDING} with other findings")),
    )
    return parsed.withColumn("verdict", F.coalesce(*(_verdict(*check) for check in checks)))


def _reject_repeats(checked: DataFrame) -> DataFrame:
    """Reject further lines about one image: all but one if they are equal, every one if they differ."""
    content = F.struct("patient_id", "follow_up", "age_years", "sex", "view_position", "findings")
    same_image = Window.partitionBy("image_index", F.col("verdict").isNull())
    conflict = ~F.min(content).over(same_image).eqNullSafe(F.max(content).over(same_image))
    repeat = F.row_number().over(same_image.orderBy("line")) > 1
    return checked.withColumn(
        "verdict",
        F.coalesce(
            "verdict",
            _verdict(conflict, "image-index-conflict", F.lit("conflicting lines describe this image; none is used")),
            _verdict(
                repeat, "image-index-repeated", F.lit("an equivalent line describes this image; one of them is used")
            ),
        ),
    )


def _unparsed(typed: str, raw: str | None = None) -> Column:
    return F.col(raw or f"{typed}_raw").isNotNull() & F.col(typed).isNull()


def _quote(name: str, text: str) -> Column:
    return F.concat(F.lit(f"{name} '"), F.col(f"{name}_raw"), F.lit(f"'{text}"))


def _verdict(condition: Column, reason: str, message: Column) -> Column:
    return F.when(condition, F.struct(F.lit(reason).alias("reason"), message.alias("message")))
