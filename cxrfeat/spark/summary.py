"""What an output folder holds, in numbers: ``summary.json`` for programs, a table for people."""

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
    """Count everything, write ``summary.json`` and ``metadata_without_image.txt``, and return the summary."""
    # Without metadata there is nothing to ask Spark, which would take most of a second to say so.
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
    """Return the share of listed images that are in quarantine, 0 to 1."""
    images = summary["images"]
    return float(images["quarantined"] / images["listed"]) if images["listed"] else 0.0


def _summarise_images(dataset: EmbeddingsTable) -> dict[str, Any]:
    by = (
        "status",
        "reason",
        "pixel_format",
        "precision",
        F.col("patient_id").isNull().alias("unknown"),
        "augmentation",
    )
    rows = dataset.embeddings().groupBy(*by).count().collect()
    films = [row for row in rows if row.augmentation == Augmentation.NONE]
    ok = dataset.images().where(F.col("status") == Status.OK.value)
    splits = ok.groupBy("split").agg(F.count("*").alias("rows"), F.count_distinct("patient_id").alias("patients"))
    listed_in = dataset.images().groupBy("image_index").agg(F.count_distinct("image_path").alias("folders"))
    return {
        "listed": sum(row["count"] for row in films),
        "ok": _tally(films, "status")[Status.OK],
        "quarantined": _tally(films, "status")[Status.QUARANTINED],
        "reasons": _sorted(_tally(films, "reason")),
        "pixel_formats": _sorted(_tally(films, "pixel_format")),
        "precisions": _sorted(_tally(films, "precision")),
        "without_metadata": _tally(films, "unknown")[True],
        "names_in_several_folders": listed_in.where("folders > 1").count(),
        "rows": _tally(rows, "status")[Status.OK],
        "splits": _by_split(splits.collect()),
    }


def _list_without_image(dataset: EmbeddingsTable) -> list[str]:
    lines = dataset.metadata().where(F.col("status") == Status.OK.value)
    absent = lines.join(dataset.images(), "image_index", "left_anti").select("image_index")
    return [row.image_index for row in absent.orderBy("image_index").collect()]


def _count_lines(dataset: EmbeddingsTable) -> list[Row]:
    """Return counts of the metadata's lines by status, and of each by split and by reason."""
    # One question for all, and for each split and each reason alone: Spark plans a question longer than it counts these.
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
    whole, splits, reasons = ([status], [status, split], [status, reason])
    return (
        dataset.metadata()
        .groupingSets([whole, splits, reasons], status, split, reason)
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
    """Return images and patients of each split that occurs, in their order."""
    of_split = {row["split"]: row for row in rows}
    return {
        split.value: {"images": of_split[split]["rows"], "patients": of_split[split]["patients"]}
        for split in Split
        if split in of_split
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
    """Lay the summary out for a terminal."""
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
            f"{split} {found['images']:,} of {found['patients']:,} patients"
            for split, found in images["splits"].items()
        )
        yield f"films       {', '.join(counts)}"
    if images["names_in_several_folders"]:
        yield f"names       {images['names_in_several_folders']:,} file names occur in more than one folder"
    if not metadata["rows"] and not metadata["rejected"]:
        yield "metadata    none given"
        return
    age, sex, rejected = metadata["age_years"], metadata["sex"], metadata["rejected"]
    yield (
        f"metadata    {metadata['rows']:,} rows of {metadata['patients']:,} patients; {sum(rejected.values()):,} rejected"
        f"; {metadata['without_image']:,} without an image"
    )
    yield from list_counts("rejected", rejected)
    yield (
        f"patients    {sex['M']:,} M, {sex['F']:,} F, {sex['unknown']:,} sex unknown; "
        + (f"ages {age['min']:g} to {age['max']:g}" if age["min"] is not None else "no ages")
        + f", {age['unknown']:,} unknown"
    )
    for split, counts in metadata["splits"].items():
        yield f"{split:<12}{counts['images']:,} rows of {counts['patients']:,} patients"
    yield "findings    of the metadata's rows"
    yield from list_findings(metadata["findings"])


def list_counts(label: str, counts: Mapping[str, int]) -> Iterator[str]:
    """Yield a line such as ``quarantine  corrupt 5, empty 1``; none where there is nothing to list."""
    if counts:
        yield f"{label:<12}" + ", ".join(f"{name} {count:,}" for name, count in counts.items())


def list_findings(counts: Mapping[str, int]) -> Iterator[str]:
    """Yield a line a finding, the most frequent first."""
    for finding, count in sorted(counts.items(), key=lambda item: -item[1]):
        yield f"  {finding:<20}{count:>9,}"
