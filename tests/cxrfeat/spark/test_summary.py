"""What people read of an output folder, and the share that decides the exit code."""

from __future__ import annotations

from typing import Any

import pytest

from cxrfeat.spark.summary import format_summary, list_counts, list_findings, quarantined_share


def summary(ok: int, quarantined: int) -> dict[str, Any]:
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
    return {"extractor": "fake", "images": images, "metadata": {"rows": 0, "rejected": {}}}


def test_the_summary_says_what_became_of_everything() -> None:
    """What was listed, what became of it and why."""
    printed = format_summary(summary(1234, 5))
    assert "1,239 listed = 1,234 ok + 5 quarantined" in printed
    assert "corrupt 5" in printed
    assert "films       train 1,234 of 7 patients" in printed


def test_counts_are_listed_as_they_are() -> None:
    """A reason that stands for rows nobody could count is named too; nothing to list is no line."""
    assert list(list_counts("quarantine", {"empty": 1234, "not-parquet": 0})) == [
        "quarantine  empty 1,234, not-parquet 0"
    ]
    assert list(list_counts("quarantine", {})) == []
    assert [line.split() for line in list_findings({"Mass": 2, "Edema": 1000})] == [["Edema", "1,000"], ["Mass", "2"]]


@pytest.mark.parametrize(("ok", "quarantined", "share"), [(99, 1, 0.01), (0, 5, 1.0), (7, 0, 0.0), (0, 0, 0.0)])
def test_the_share_is_of_what_was_listed(ok: int, quarantined: int, share: float) -> None:
    """An empty folder has nothing in quarantine."""
    assert quarantined_share(summary(ok, quarantined)) == share
