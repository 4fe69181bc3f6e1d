"""The summary for the terminal is complete, and its quarantined share decides the exit code."""

from __future__ import annotations

from typing import Any

import pytest

from cxrfeat.spark.summary import format_summary, list_counts, list_findings, quarantined_share


def summary(ok: int, quarantined: int, metadata: dict[str, Any] | None = None) -> dict[str, Any]:
    images = {
        "listed": ok + quarantined,
        "ok": ok,
        "quarantined": quarantined,
        "without_metadata": 0,
        "rows": ok,
        "pixel_formats": {},
        "reasons": {"corrupt": quarantined},
        "names_in_several_folders": 0,
        "splits": {"train": {"images": ok, "patients": 7}} if ok else {},
    }
    return {"extractor": "fake", "images": images, "metadata": metadata or {"rows": 0, "rejected": {}}}


def test_the_summary_accounts_for_every_image() -> None:
    """The numbers of listed, embedded and quarantined images are printed, with reasons and splits."""
    printed = format_summary(summary(1234, 5))
    assert "1,239 listed = 1,234 ok + 5 quarantined" in printed
    assert "corrupt 5" in printed
    assert "splits      train 1,234 images of 7 patients" in printed
    assert printed.endswith("metadata    not given")


@pytest.mark.parametrize(("youngest", "printed"), [(0.5, "0.5 to 95 years, 3 unknown"), (None, "3 unknown")])
def test_the_metadata_is_described(youngest: float | None, printed: str) -> None:
    """Rows by sex and age, rejected lines by reason, splits, and findings by frequency."""
    metadata = {
        "rows": 1200,
        "patients": 7,
        "rejected": {"age-unreadable": 2},
        "without_image": 4,
        "findings": {"Mass": 1},
        "sex": {"M": 1100, "F": 90, "unknown": 10},
        "age_years": {"min": youngest, "max": 95.0, "unknown": 3},
        "splits": {"train": {"images": 1200, "patients": 7}},
    }
    assert format_summary(summary(1234, 5, metadata)).splitlines()[4:] == [
        "metadata    1,200 rows of 7 patients; 2 rejected; 4 without an image",
        "rejected    age-unreadable 2",
        "sex         1,100 M, 90 F, 10 unknown",
        f"age         {printed}",
        "train       1,200 rows of 7 patients",
        "findings    rows of the metadata per finding",
        "  Mass                        1",
    ]


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
