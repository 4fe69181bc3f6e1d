"""Candidates for images are found by name and content, and everything else is counted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cxrfeat.errors import ConfigError
from cxrfeat.images.candidates import Candidate, classify
from cxrfeat.io.skipped import Skipped
from cxrfeat.pipeline.image_source import ImageLister, list_drops, require_items

DICOM = bytes(128) + b"DICM" + b"rest"


def write(root: Path, name: str, content: bytes = b"x") -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def keys(root: Path) -> list[str]:
    return [item.key for item in ImageLister(str(root))().items]


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        *((name, Candidate.YES) for name in ("a.png", "A.JPEG", "x.dcm", "x.DICOM", "t.tif", "j.jp2")),
        *((name, Candidate.LOOK_INSIDE) for name in ("IM000001", "1.2.840.10008.5", "a.", "scan.ima")),
        *((name, Candidate.NO) for name in ("DICOMDIR", "dicomdir", "a.txt", "a.png.bak", "a.v2")),
        ("png", Candidate.LOOK_INSIDE),
    ],
)
def test_names_are_judged(name: str, verdict: Candidate) -> None:
    """Suffixes of images are candidates; no suffix, or a number as in a UID, says nothing."""
    assert classify(name) == verdict


def test_dicom_is_found_without_a_suffix(tmp_path: Path) -> None:
    """Files without a suffix, and UIDs, are images if they start as DICOM does; all others are counted."""
    for name in ("IM0", "1.2.840.99", "study/a.ima"):
        write(tmp_path, name, DICOM)
    for name in ("README", "1.2.840.98", "short"):
        write(tmp_path, name, DICOM[:131])
    write(tmp_path, "DICOMDIR", DICOM)
    listing = ImageLister(str(tmp_path))()
    assert [item.key for item in listing.items] == ["1.2.840.99", "IM0", "study/a.ima"]
    assert dict(listing.skipped.counts) == {"no suffix": 3, ".98": 1}
    assert listing.skipped.examples["no suffix"] == "DICOMDIR"


def test_known_files_are_not_opened_again(tmp_path: Path) -> None:
    """A file without a suffix that an earlier round has taken stays an item, whatever is in it now."""
    write(tmp_path, "IM0", b"changed")
    assert keys(tmp_path) == []
    assert [item.key for item in ImageLister(str(tmp_path))({"IM0"}).items] == ["IM0"]


def test_everything_else_is_counted_with_an_example(tmp_path: Path) -> None:
    """Regular files by suffix, hidden ones apart; links and FIFOs of other names are not files."""
    for name in ("a.csv", "b.CSV", "c.txt", ".DS_Store", "_tmp/x.png", "x.png"):
        write(tmp_path, name)
    (tmp_path / "dangling").symlink_to("gone")
    (tmp_path / "dangling.png").symlink_to("gone")
    os.mkfifo(tmp_path / "fifo")
    listing = ImageLister(str(tmp_path))()
    assert [item.key for item in listing.items] == ["dangling.png", "x.png"]
    assert dict(listing.skipped.counts) == {".csv": 2, ".txt": 1, "hidden": 2}
    assert listing.skipped.examples == {".csv": "a.csv", ".txt": "c.txt", "hidden": ".DS_Store"}


def test_folders_that_are_mostly_skipped_are_named(tmp_path: Path) -> None:
    """More than half: of the root, and of a folder in it, with everything below; exactly half is not."""
    for name in ("good/1.png", "good/2.csv", "bad/1.png", "bad/x/2.csv", "bad/x/3.csv", ".hidden"):
        write(tmp_path, name)
    skipped = ImageLister(str(tmp_path))().skipped
    assert skipped.list_mostly_skipped() == [(".", 3, 5), ("bad", 2, 3)]
    total = Skipped()
    total.merge(skipped)
    total.merge(skipped)
    assert total.list_mostly_skipped() == [(".", 6, 10), ("bad", 4, 6)]
    assert total.counts == {".csv": 6, "hidden": 2}


def test_drops_are_listed_by_the_same_walk(tmp_path: Path) -> None:
    """Parquet files at any depth, each real folder once."""
    write(tmp_path, "round=0/status=ok/a.parquet")
    write(tmp_path, "round=0/_SUCCESS")
    (tmp_path / "up").symlink_to(tmp_path)
    listing = list_drops(str(tmp_path), (".parquet",))
    assert [item.key for item in listing.items] == ["round=0/status=ok/a.parquet"]


def test_an_empty_listing_says_what_is_there(tmp_path: Path) -> None:
    """The error of a folder without images counts what it has instead."""
    write(tmp_path, "a.csv")
    with pytest.raises(ConfigError, match=r"no image found in .*; expected \.png files .*; it has 1 \.csv \(a\.csv\)"):
        require_items(ImageLister(str(tmp_path))(), str(tmp_path), "image", (".png",))
