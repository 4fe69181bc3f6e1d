"""The summary for the terminal is complete, and its quarantined share decides the exit code."""

from __future__ import annotations

from typing import Any

import pytest

from cxrfeat.spark.summary import describe_unmatched, format_summary, list_counts, list_findings, quarantined_share

NO_METADATA = {"rows": 0, "rejected": {}}
NO_SKIPPED: dict[str, Any] = {"files": 0, "kinds": {}, "mostly_skipped": []}
METADATA = {"rows": 1200, "patients": 7, "rejected": {"malformed": 2}, "without_image": 4, "unreadable_cells": {}}


def summary(
    ok: int,
    quarantined: int,
    metadata: dict[str, Any] | None = None,
    youngest: float | None = 0.5,
    unmatched: int = 0,
    skipped: dict[str, Any] | None = None,
) -> dict[str, Any]:
    images = {
        "listed": ok + quarantined,
        "ok": ok,
        "quarantined": quarantined,
        "without_metadata": unmatched,
        "rows": ok,
        "pixel_formats": {},
        "reasons": {"corrupt": quarantined},
        "names_in_several_folders": 0,
        "metadata_status": {"matched": ok, "no-line": unmatched} if metadata else {},
        "splits": {"train": {"images": ok, "patients": 7}} if ok else {},
        "findings": {"Mass": 1, "No Finding": 30},
        "unlabelled": 3,
        "sex": {"M": 1100, "F": 90, "unknown": 10},
        "age_years": {"min": youngest, "max": 95.0, "unknown": 3},
    }
    return {
        "extractor": "fake",
        "images": images,
        "skipped": skipped or NO_SKIPPED,
        "metadata": metadata or NO_METADATA,
    }


def test_what_was_not_taken_is_printed() -> None:
    """Kinds of files with an example each, and a line of its own for a folder that is mostly skipped, up to five."""
    folders = [{"folder": f"f{number}", "skipped": 3, "files": 4} for number in range(7)]
    kinds = {".csv": {"files": 20, "example": "a.csv"}, "hidden": {"files": 1, "example": ".x"}}
    printed = format_summary(summary(9, 0, skipped={"files": 21, "kinds": kinds, "mostly_skipped": folders}))
    lines = [line for line in printed.splitlines() if line.startswith(("skipped", "warning"))]
    assert lines[0] == "skipped     21 files are not images: .csv 20 (a.csv), hidden 1 (.x)"
    assert lines[1] == "warning     3 of 4 files in f0 were skipped"
    assert lines[6:] == ["warning     mostly skipped are 2 more folders; see summary.json"]


def test_the_summary_accounts_for_every_image() -> None:
    """The numbers of listed, embedded and quarantined images are printed, with reasons."""
    printed = format_summary(summary(1234, 5))
    assert "1,239 listed = 1,234 ok + 5 quarantined" in printed
    assert "corrupt 5" in printed
    assert printed.endswith("metadata    not given")


@pytest.mark.parametrize(("youngest", "printed"), [(0.5, "0.5 to 95 years, 3 unknown"), (None, "3 unknown")])
def test_images_are_described_before_the_table(youngest: float | None, printed: str) -> None:
    """Splits, sexes, ages and findings are those of the images; the table's own counts follow."""
    metadata = {**METADATA, "unreadable_cells": {"Patient Age: age-unreadable": 2}}
    assert format_summary(summary(1234, 5, metadata, youngest)).splitlines()[3:] == [
        "matching    matched 1,234, no-line 0",
        "splits      train 1,234 images of 7 patients",
        "sex         1,100 M, 90 F, 10 unknown",
        f"age         {printed}",
        "findings    images per finding; 3 unlabelled",
        "  No Finding                 30",
        "  Mass                        1",
        "metadata    1,200 rows of 7 patients; 2 rejected; 4 without an image",
        "rejected    malformed 2",
        "unreadable  Patient Age: age-unreadable 2",
    ]


def test_unmatched_images_and_rejected_lines_are_explained() -> None:
    """Above the limit the text counts them, names the outcomes and where to look; at the limit nothing is said."""
    found = summary(90, 0, METADATA, unmatched=9)
    assert describe_unmatched(found, 0.1) is None
    text = describe_unmatched(found, 0.05)
    assert text is not None
    assert text.startswith(
        "9 of 90 images have no metadata; --max-unmatched allows 5.00%. Outcomes: 90 matched, 9 no-line"
    )
    rejected = summary(90, 0, {**METADATA, "rows": 8, "rejected": {"malformed": 2}})
    assert describe_unmatched(rejected, 0.2) is None
    text = describe_unmatched(rejected, 0.1)
    assert text is not None
    assert text.startswith("2 of 10 metadata lines are rejected; --max-unmatched allows 10.00%. Reasons: 2 malformed")


def test_counts_are_listed() -> None:
    """A reason with an unknown number of rows is named too; without counts no line is printed."""
    assert list(list_counts("quarantine", {"empty": 1234, "not-parquet": 0})) == [
        "quarantine  empty 1,234, not-parquet 0"
    ]
    assert list(list_counts("quarantine", {})) == []
    assert [line.split() for line in list_findings({"Mass": 2, "Edema": 1000})] == [["Edema", "1,000"], ["Mass", "2"]]


@pytest.mark.parametrize(("ok", "quarantined", "share"), [(99, 1, 0.01), (0, 5, 1.0), (7, 0, 0.0), (0, 0, 0.0)])
def test_the_share_is_of_the_listed_images(ok: int, quarantined: int, share: float) -> None:
    """The share of an empty folder is 0."""
    assert quarantined_share(summary(ok, quarantined)) == share
