"""Summary of an extraction's output: ``summary.json`` for programs, a table for the terminal."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cxrfeat.io import storage
from cxrfeat.io.schema import Augmentation, Split, Status
from cxrfeat.io.skipped import Skipped
from cxrfeat.labels.findings import FINDINGS, NO_FINDING
from cxrfeat.labels.image_metadata import ImageMetadata
from cxrfeat.labels.matching import ImageMatcher, MetadataStatus
from cxrfeat.spark.embeddings_table import EmbeddingsTable

NAME = "summary.json"
WITHOUT_IMAGE = "metadata_without_image.txt"

_FOLDERS_SHOWN = 5

ExtractionSummary = Mapping[str, Any]


def write_summary(
    dataset: EmbeddingsTable, extractor: str, skipped: Skipped, known: ImageMetadata | None = None
) -> ExtractionSummary:
    """Write ``summary.json`` and ``metadata_without_image.txt``, and return the summary.

    Args:
        dataset: the output.
        extractor: fingerprint of the extractor.
        skipped: files that are not images.
        known: metadata of this run; None for a run without.
    """
    index, lines = dataset.index(), dataset.metadata()
    paths = pc.unique(index["image_path"]).to_pylist()
    matcher = known.matcher if known else ImageMatcher(lines, paths)
    without_image = matcher.find_unused(paths)
    storage.write_text(storage.join(dataset.output, WITHOUT_IMAGE), "".join(f"{name}\n" for name in without_image))
    summary = {
        "extractor": extractor,
        "images": _summarise_images(index),
        "skipped": summarise_skipped(skipped),
        "metadata": {
            **_summarise_metadata(lines, len(without_image)),
            "columns": known.metadata.column_map.name if known else None,
            "unreadable_cells": {
                f"{column}: {reason}": count
                for (column, reason), count in (known.metadata.cell_errors.counts if known else Counter()).most_common()
            },
        },
    }
    storage.write_text(storage.join(dataset.output, NAME), json.dumps(summary, indent=2) + "\n")
    return summary


def quarantined_share(summary: ExtractionSummary) -> float:
    """Return the share of listed images that are quarantined, 0 to 1."""
    images = summary["images"]
    return float(images["quarantined"] / images["listed"]) if images["listed"] else 0.0


def describe_unmatched(summary: ExtractionSummary, limit: float) -> str | None:
    """Return what exceeds the limit of ``--max-unmatched``, and where to look; None if nothing does.

    Args:
        summary: summary of a run with metadata.
        limit: largest share of images without metadata and of rejected lines, 0 to 1.
    """
    images, metadata = summary["images"], summary["metadata"]
    rejected = sum(metadata["rejected"].values())
    lines = metadata["rows"] + rejected
    if images["without_metadata"] > limit * images["listed"]:
        outcomes = ", ".join(f"{count:,} {name}" for name, count in images["metadata_status"].items())
        return (
            f"{images['without_metadata']:,} of {images['listed']:,} images have no metadata; --max-unmatched allows "
            f"{limit:.2%}. Outcomes: {outcomes}. See the column metadata_status of the embeddings, and {WITHOUT_IMAGE}"
        )
    if rejected > limit * lines:
        reasons = ", ".join(f"{count:,} {name}" for name, count in metadata["rejected"].items())
        return (
            f"{rejected:,} of {lines:,} metadata lines are rejected; --max-unmatched allows {limit:.2%}. Reasons: "
            f"{reasons}. See the columns reason, message and line in metadata/status=rejected"
        )
    return None


def summarise_skipped(skipped: Skipped) -> dict[str, Any]:
    """Return the number of files that were not taken, by kind with an example, and the folders with mostly such."""
    counts = sorted(skipped.counts.items(), key=lambda item: (-item[1], item[0]))
    return {
        "files": skipped.counts.total(),
        "kinds": {kind: {"files": count, "example": skipped.examples[kind]} for kind, count in counts},
        "mostly_skipped": [
            {"folder": folder, "skipped": others, "files": files}
            for folder, others, files in skipped.list_mostly_skipped()
        ],
    }


def _summarise_images(index: pa.Table) -> dict[str, Any]:
    images = index.filter(pc.equal(index["augmentation"], Augmentation.NONE.value))  # one row per image
    ok = images.filter(pc.equal(images["status"], Status.OK.value))
    folders = images.group_by("image_index").aggregate([("image_path", "count_distinct")])
    status, outcomes = _tally(images, "status"), _tally(images, "metadata_status")
    return {
        "listed": len(images),
        "ok": status[Status.OK],
        "quarantined": status[Status.QUARANTINED],
        "reasons": dict(_tally(images, "reason").most_common()),
        "pixel_formats": dict(_tally(images, "pixel_format").most_common()),
        "precisions": dict(_tally(images, "precision").most_common()),
        "without_metadata": images["patient_id"].null_count,
        "metadata_status": {name.value: outcomes[name] for name in MetadataStatus if outcomes[name]},
        "names_in_several_folders": int(pc.sum(pc.greater(folders["image_path_count_distinct"], 1)).as_py() or 0),
        "rows": _tally(index, "status")[Status.OK],
        **_describe_patients(ok),
    }


def _summarise_metadata(lines: pa.Table, without_image: int) -> dict[str, Any]:
    ok = lines.filter(pc.equal(lines["status"], Status.OK.value))
    return {
        "rows": len(ok),
        "rejected": dict(_tally(lines, "reason").most_common()),
        "without_image": without_image,
        **_describe_patients(ok),
    }


def _describe_patients(rows: pa.Table) -> dict[str, Any]:
    """Return the counts of patients, findings, sexes, ages and splits of rows with metadata columns."""
    age, sex, findings = rows["age_years"], _tally(rows, "sex"), rows["findings"]
    counts = pc.value_counts(pc.list_flatten(findings)).to_pylist()
    found = Counter({str(entry["values"]): int(entry["counts"]) for entry in counts})
    names = [*FINDINGS, *sorted(set(found).difference(FINDINGS), key=lambda name: (-found[name], name))]
    known_findings = {name: found[name] for name in names if found[name]}
    none = pc.fill_null(pc.equal(pc.list_value_length(findings), 0), fill_value=False)
    ages = pc.min_max(age).as_py()
    return {
        "patients": len(pc.unique(rows["patient_id"].drop_null())),
        "findings": {NO_FINDING: int(pc.sum(none).as_py() or 0) + known_findings.pop(NO_FINDING, 0), **known_findings},
        "unlabelled": findings.null_count,
        "sex": {"M": sex["M"], "F": sex["F"], "unknown": rows["sex"].null_count},
        "age_years": {**ages, "unknown": age.null_count},
        "splits": _count_splits(rows),
    }


def _count_splits(rows: pa.Table) -> dict[str, dict[str, int]]:
    """Return the numbers of images and patients of each split that occurs, in the order of :class:`Split`."""
    counts = rows.group_by("split").aggregate([([], "count_all"), ("patient_id", "count_distinct")])
    by_name = {row["split"]: row for row in counts.to_pylist()}
    return {
        split.value: {
            "images": by_name[split.value]["count_all"],
            "patients": by_name[split.value]["patient_id_count_distinct"],
        }
        for split in Split
        if split.value in by_name
    }


def _tally(table: pa.Table, column: str) -> Counter[str]:
    """Return the number of rows per value of a column, null left out."""
    counts = table[column].drop_null().value_counts()
    return Counter({str(entry["values"]): entry["counts"] for entry in counts.to_pylist()})


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
    yield from list_skipped(summary["skipped"])
    if images["names_in_several_folders"]:
        yield f"names       {images['names_in_several_folders']:,} file names occur in more than one folder"
    if not metadata["rows"] and not metadata["rejected"]:
        yield "metadata    not given"
        return
    yield from list_counts("matching", images["metadata_status"])
    if images["splits"]:
        counts = (
            f"{split} {found['images']:,} images of {found['patients']:,} patients"
            for split, found in images["splits"].items()
        )
        yield f"splits      {'; '.join(counts)}"
    age, sex = images["age_years"], images["sex"]
    yield f"sex         {sex['M']:,} M, {sex['F']:,} F, {sex['unknown']:,} unknown"
    known = f"{age['min']:g} to {age['max']:g} years, " if age["min"] is not None else ""
    yield f"age         {known}{age['unknown']:,} unknown"
    yield f"findings    images per finding; {images['unlabelled']:,} unlabelled"
    yield from list_findings(images["findings"])
    rejected = metadata["rejected"]
    yield (
        f"metadata    {metadata['rows']:,} rows of {metadata['patients']:,} patients"
        f"; {sum(rejected.values()):,} rejected; {metadata['without_image']:,} without an image"
    )
    yield from list_counts("rejected", rejected)
    yield from list_counts("unreadable", metadata["unreadable_cells"])


def list_counts(label: str, counts: Mapping[str, int]) -> Iterator[str]:
    """Yield a line such as ``quarantine  corrupt 5, empty 1``, or none if ``counts`` is empty."""
    if counts:
        yield f"{label:<12}" + ", ".join(f"{name} {count:,}" for name, count in counts.items())


def list_skipped(skipped: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line with the kinds of files that are not images, and one for each folder that has mostly such files."""
    if skipped["kinds"]:
        kinds = (f"{kind} {found['files']:,} ({found['example']})" for kind, found in skipped["kinds"].items())
        yield f"skipped     {skipped['files']:,} files are not images: {', '.join(kinds)}"
    folders = skipped["mostly_skipped"]
    for found in folders[:_FOLDERS_SHOWN]:
        yield f"warning     {found['skipped']:,} of {found['files']:,} files in {found['folder']} were skipped"
    if len(folders) > _FOLDERS_SHOWN:
        yield f"warning     mostly skipped are {len(folders) - _FOLDERS_SHOWN:,} more folders; see {NAME}"


def list_findings(counts: Mapping[str, int]) -> Iterator[str]:
    """Yield one line per finding, the most frequent first."""
    for finding, count in sorted(counts.items(), key=lambda item: -item[1]):
        yield f"  {finding:<20}{count:>9,}"
