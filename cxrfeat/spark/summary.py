"""What an output folder holds, in numbers: ``summary.json`` for programs, a table for people."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from pyspark.sql import Row
from pyspark.sql import functions as F  # noqa: N812

from cxrfeat import storage
from cxrfeat.findings import FINDINGS, NO_FINDING
from cxrfeat.schema import Split, Status
from cxrfeat.spark.dataset import Dataset

NAME = "summary.json"
WITHOUT_IMAGE = "metadata_without_image.txt"

Summary = Mapping[str, Any]


def write_summary(dataset: Dataset, extractor: str) -> Summary:
    """Count everything, write ``summary.json`` and ``metadata_without_image.txt``, and return the summary."""
    summary = {
        "extractor": extractor,
        "images": _summarise_images(dataset),
        "metadata": _summarise_metadata(dataset),
    }
    storage.write_text(storage.join(dataset.output, NAME), json.dumps(summary, indent=2) + "\n")
    return summary


def quarantined_share(summary: Summary) -> float:
    """Return the share of listed images that are in quarantine, 0 to 1."""
    images = summary["images"]
    return float(images["quarantined"] / images["listed"]) if images["listed"] else 0.0


def _summarise_images(dataset: Dataset) -> dict[str, Any]:
    films = dataset.films()
    by = ("status", "reason", "pixel_format", "precision", F.col("patient_id").isNull().alias("unknown"))
    groups = films.groupBy(*by).count().collect()
    listed_in = films.groupBy("image_index").agg(F.count_distinct("image_path").alias("folders"))
    return {
        "listed": sum(row["count"] for row in groups),
        "ok": _tally(groups, "status")[Status.OK],
        "quarantined": _tally(groups, "status")[Status.QUARANTINED],
        "reasons": _sorted(_tally(groups, "reason")),
        "pixel_formats": _sorted(_tally(groups, "pixel_format")),
        "precisions": _sorted(_tally(groups, "precision")),
        "without_metadata": _tally(groups, "unknown")[True],
        "names_in_several_folders": listed_in.where("folders > 1").count(),
        "rows": dataset.embeddings().where(F.col("status") == Status.OK.value).count(),
    }


def _summarise_metadata(dataset: Dataset) -> dict[str, Any]:
    lines = dataset.metadata()
    rejected = lines.where(F.col("status") == Status.REJECTED.value).groupBy("reason").count().collect()
    images = lines.where(F.col("status") == Status.OK.value)
    counts = images.agg(
        F.count("*").alias("rows"),
        F.count_distinct("patient_id").alias("patients"),
        F.count_if(F.size("findings") == 0).alias(NO_FINDING),
        F.count_if(F.col("findings").isNull()).alias("unlabelled"),
        *(F.count_if(F.array_contains("findings", finding)).alias(finding) for finding in FINDINGS),
        *(F.count_if(F.col("sex") == sex).alias(sex) for sex in "MF"),
        F.count_if(F.col("sex").isNull()).alias("sex_unknown"),
        F.min("age_years").alias("youngest"),
        F.max("age_years").alias("oldest"),
        F.count_if(F.col("age_years").isNull()).alias("age_unknown"),
    ).first()
    assert counts is not None  # an aggregate without groups has one row  # noqa: S101
    of_split = images.groupBy("split").agg(
        F.count("*").alias("images"), F.count_distinct("patient_id").alias("patients")
    )
    splits = {row.split: {"images": row.images, "patients": row.patients} for row in of_split.collect()}
    absent = images.join(dataset.films(), "image_index", "left_anti").select("image_index").orderBy("image_index")
    names = [row.image_index for row in absent.collect()]
    storage.write_text(storage.join(dataset.output, WITHOUT_IMAGE), "".join(f"{name}\n" for name in names))
    return {
        "rows": counts["rows"],
        "patients": counts["patients"],
        "rejected": _sorted(_tally(rejected, "reason")),
        "without_image": len(names),
        "findings": {name: counts[name] for name in (NO_FINDING, *FINDINGS)},
        "unlabelled": counts["unlabelled"],
        "sex": {"M": counts["M"], "F": counts["F"], "unknown": counts["sex_unknown"]},
        "age_years": {"min": counts["youngest"], "max": counts["oldest"], "unknown": counts["age_unknown"]},
        "splits": {split.value: splits[split.value] for split in Split if split.value in splits},
    }


def _tally(groups: list[Row], column: str) -> Counter[Any]:
    tally: Counter[Any] = Counter()
    for row in groups:
        if row[column] is not None:
            tally[row[column]] += row["count"]
    return tally


def _sorted(tally: Counter[Any]) -> dict[str, int]:
    return dict(tally.most_common())


def format_summary(summary: Summary) -> str:
    """Lay the summary out for a terminal."""
    return "\n".join(_lines(summary))


def _lines(summary: Summary) -> Iterator[str]:
    images, metadata = summary["images"], summary["metadata"]
    yield f"extractor   {summary['extractor']}"
    yield (
        f"images      {images['listed']:,} listed = {images['ok']:,} ok + {images['quarantined']:,} quarantined"
        f"; {images['without_metadata']:,} without metadata; {images['rows']:,} embeddings"
    )
    yield from list_counts("formats", images["pixel_formats"])
    yield from list_counts("quarantine", images["reasons"])
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
        yield f"{split:<12}{counts['images']:,} images of {counts['patients']:,} patients"
    yield from list_findings(metadata["findings"])


def list_counts(label: str, counts: Mapping[str, int]) -> Iterator[str]:
    """Yield a line such as ``quarantine  corrupt 5, empty 1``; none where there is nothing to list."""
    if counts:
        yield f"{label:<12}" + ", ".join(f"{name} {count:,}" for name, count in counts.items())


def list_findings(counts: Mapping[str, int]) -> Iterator[str]:
    """Yield a line a finding, the most frequent first."""
    for finding, count in sorted(counts.items(), key=lambda item: -item[1]):
        yield f"  {finding:<20}{count:>9,}"
