"""Summary of an extraction's output: ``summary.json`` for programs, a table for the terminal."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pyspark.sql import Row
from pyspark.sql import functions as F  # noqa: N812

from cxrfeat.io import storage
from cxrfeat.io.schema import Augmentation, Split, Status
from cxrfeat.labels.findings import FINDINGS, NO_FINDING
from cxrfeat.spark.embeddings_table import EmbeddingsTable

NAME = "summary.json"
WITHOUT_IMAGE = "metadata_without_image.txt"

ExtractionSummary = Mapping[str, Any]


def write_summary(dataset: EmbeddingsTable, extractor: str) -> ExtractionSummary:
    """Write ``summary.json`` and ``metadata_without_image.txt``, and return the summary."""
    # Without metadata the queries are skipped: even on an empty table they take most of a second.
    without_image = _list_without_image(dataset) if dataset.has_metadata() else []
    storage.write_text(storage.join(dataset.output, WITHOUT_IMAGE), "".join(f"{name}\n" for name in without_image))
    summary = {
        "extractor": extractor,
        "images": _summarise_images(dataset),
        "metadata": _summarise_metadata(_count_lines(dataset) if dataset.has_metadata() else [], len(without_image)),
    }
    storage.write_text(storage.join(dataset.output, NAME), json.dumps(summary, indent=2) + "\n")
    return summary


def quarantined_share(summary: ExtractionSummary) -> float:
    """Return the share of listed images that are quarantined, 0 to 1."""
    images = summary["images"]
    return float(images["quarantined"] / images["listed"]) if images["listed"] else 0.0


def _summarise_images(dataset: EmbeddingsTable) -> dict[str, Any]:
    keys = (
        "status",
        "reason",
        "pixel_format",
        "precision",
        F.col("patient_id").isNull().alias("unknown"),
        "augmentation",
    )
    rows = dataset.embeddings().groupBy(*keys).count().collect()
    images = [row for row in rows if row.augmentation == Augmentation.NONE]  # one row per image, no augmented ones
    ok = dataset.images().where(F.col("status") == Status.OK.value)
    splits = ok.groupBy("split").agg(F.count("*").alias("rows"), F.count_distinct("patient_id").alias("patients"))
    listed_in = dataset.images().groupBy("image_index").agg(F.count_distinct("image_path").alias("folders"))
    return {
        "listed": sum(row["count"] for row in images),
        "ok": _tally(images, "status")[Status.OK],
        "quarantined": _tally(images, "status")[Status.QUARANTINED],
        "reasons": _sorted(_tally(images, "reason")),
        "pixel_formats": _sorted(_tally(images, "pixel_format")),
        "precisions": _sorted(_tally(images, "precision")),
        "without_metadata": _tally(images, "unknown")[True],
        "names_in_several_folders": listed_in.where("folders > 1").count(),
        "rows": _tally(rows, "status")[Status.OK],
        "splits": _by_split(splits.collect()),
    }


def _list_without_image(dataset: EmbeddingsTable) -> list[str]:
    lines = dataset.metadata().where(F.col("status") == Status.OK.value)
    absent = lines.join(dataset.images(), "image_index", "left_anti").select("image_index")
    return [row.image_index for row in absent.orderBy("image_index").collect()]


def _count_lines(dataset: EmbeddingsTable) -> list[Row]:
    """Return counts of the metadata's lines per status, per status and split, and per status and reason."""
    # A single query with three groupings, because planning a query takes Spark longer than this counting.
    counts = {
        "rows": F.count("*"),
        "patients": F.count_distinct("patient_id"),
        NO_FINDING: F.count_if(F.size("findings") == 0),
        "unlabelled": F.count_if(F.col("findings").isNull()),
        **{finding: F.count_if(F.array_contains("findings", finding)) for finding in FINDINGS},
        **{sex: F.count_if(F.col("sex") == sex) for sex in "MF"},
        "sex_unknown": F.count_if(F.col("sex").isNull()),
        "youngest": F.min("age_years"),
        "oldest": F.max("age_years"),
        "age_unknown": F.count_if(F.col("age_years").isNull()),
    }
    status, split, reason = (F.col(name) for name in ("status", "split", "reason"))
    columns = [column.alias(name) for name, column in counts.items()]
    totals, splits, reasons = ([status], [status, split], [status, reason])
    return (
        dataset.metadata()
        .groupingSets([totals, splits, reasons], status, split, reason)
        .agg(*columns, F.grouping("split").alias("all_splits"), F.grouping("reason").alias("all_reasons"))
        .collect()
    )


def _summarise_metadata(groups: Sequence[Row], without_image: int) -> dict[str, Any]:
    ok = [row for row in groups if row["status"] == Status.OK]
    total: Mapping[str, Any] = next(
        (row.asDict() for row in ok if row["all_splits"] and row["all_reasons"]),
        defaultdict(int, youngest=None, oldest=None),
    )
    rejected = {
        row["reason"]: row["rows"] for row in groups if row["status"] == Status.REJECTED and not row["all_reasons"]
    }
    return {
        "rows": total["rows"],
        "patients": total["patients"],
        "rejected": _sorted(Counter(rejected)),
        "without_image": without_image,
        "findings": {name: total[name] for name in (NO_FINDING, *FINDINGS)},
        "unlabelled": total["unlabelled"],
        "sex": {"M": total["M"], "F": total["F"], "unknown": total["sex_unknown"]},
        "age_years": {"min": total["youngest"], "max": total["oldest"], "unknown": total["age_unknown"]},
        "splits": _by_split([row for row in ok if not row["all_splits"]]),
    }


def _by_split(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    """Return the numbers of images and patients of each split that occurs, in the order of :class:`Split`."""
    by_name = {row["split"]: row for row in rows}
    return {
        split.value: {"images": by_name[split]["rows"], "patients": by_name[split]["patients"]}
        for split in Split
        if split in by_name
    }


def _tally(groups: list[Row], column: str) -> Counter[Any]:
    tally: Counter[Any] = Counter()
    for row in groups:
        if row[column] is not None:
            tally[row[column]] += row["count"]
    return tally


def _sorted(tally: Counter[Any]) -> dict[str, int]:
    return dict(tally.most_common())


def format_summary(summary: ExtractionSummary) -> str:
    """Format the summary for a terminal."""
    return "\n".join(_lines(summary))


def _lines(summary: ExtractionSummary) -> Iterator[str]:
    images, metadata = summary["images"], summary["metadata"]
    yield f"extractor   {summary['extractor']}"
    yield (
        f"images      {images['listed']:,} listed = {images['ok']:,} ok + {images['quarantined']:,} quarantined"
        f"; {images['without_metadata']:,} without metadata; {images['rows']:,} embeddings"
    )
    yield from list_counts("formats", images["pixel_formats"])
    yield from list_counts("quarantine", images["reasons"])
    if images["splits"]:
        counts = (
            f"{split} {found['images']:,} images of {found['patients']:,} patients"
            for split, found in images["splits"].items()
        )
        yield f"splits      {'; '.join(counts)}"
    if images["names_in_several_folders"]:
        yield f"names       {images['names_in_several_folders']:,} file names occur in more than one folder"
    if not metadata["rows"] and not metadata["rejected"]:
        yield "metadata    not given"
        return
    age, sex, rejected = metadata["age_years"], metadata["sex"], metadata["rejected"]
    yield (
        f"metadata    {metadata['rows']:,} rows of {metadata['patients']:,} patients"
        f"; {sum(rejected.values()):,} rejected; {metadata['without_image']:,} without an image"
    )
    yield from list_counts("rejected", rejected)
    yield f"sex         {sex['M']:,} M, {sex['F']:,} F, {sex['unknown']:,} unknown"
    known = f"{age['min']:g} to {age['max']:g} years, " if age["min"] is not None else ""
    yield f"age         {known}{age['unknown']:,} unknown"
    for split, counts in metadata["splits"].items():
        yield f"{split:<12}{counts['images']:,} rows of {counts['patients']:,} patients"
    yield "findings    rows of the metadata per finding"
    yield from list_findings(metadata["findings"])


def list_counts(label: str, counts: Mapping[str, int]) -> Iterator[str]:
    """Yield a line such as ``quarantine  corrupt 5, empty 1``, or none if ``counts`` is empty."""
    if counts:
        yield f"{label:<12}" + ", ".join(f"{name} {count:,}" for name, count in counts.items())


def list_findings(counts: Mapping[str, int]) -> Iterator[str]:
    """Yield one line per finding, the most frequent first."""
    for finding, count in sorted(counts.items(), key=lambda item: -item[1]):
        yield f"  {finding:<20}{count:>9,}"
