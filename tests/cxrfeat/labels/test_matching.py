"""Images get the metadata of their own line, or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxrfeat.labels.image_metadata import load_image_metadata
from cxrfeat.labels.matching import ImageMatcher
from tests.nih_lines import HEADER_SHORT

HEADER = "f,patient"
COLUMNS = 'image = "f"\npatient = "patient"\n'


def match(folder: Path, names: list[str], images: list[str]) -> tuple[ImageMatcher, dict[str, str | None]]:
    """Match images with a table whose n-th line has the patient n; return patient or status of each image."""
    (folder / "t.csv").write_text("\n".join([HEADER, *(f"{name},{number}" for number, name in enumerate(names))]))
    (folder / "t.toml").write_text(COLUMNS)
    known = load_image_metadata([str(folder / "t.csv")], images, columns=str(folder / "t.toml"))
    rows = known.matcher.match(images).to_pylist()
    assert [row["image_path"] for row in rows] == images
    return known.matcher, {
        row["image_path"]: row["patient_id"] if row["metadata_status"] == "matched" else row["metadata_status"]
        for row in rows
    }


CASES: dict[str, tuple[list[str], dict[str, str]]] = {  # lines, image -> patient or status
    "by name": (["a.png", "b.png"], {"x/a.png": "0", "y/b.png": "1", "c.png": "no-line"}),
    "without suffix": (["a", "b.png"], {"x/a.dcm": "0", "b.jpg": "1"}),
    "UIDs keep their dots": (["1.2.3", "1.2.4"], {"1.2.3": "0", "1.2.4.dcm": "1", "1.2.5": "no-line"}),
    "two images of a name": (["a.png"], {"x/a.png": "ambiguous-name", "y/a.png": "ambiguous-name"}),
    "two images of a stem": (["a"], {"x/a.png": "ambiguous-name", "x/a.jpg": "ambiguous-name"}),
    "two lines contradict": (["a.png", "a.png"], {"a.png": "rejected-line"}),
    "two lines of a stem": (["a.png", "a.jpg"], {"a.dcm": "ambiguous-name"}),
    "exact before stem": (["a.png", "a.jpg"], {"a.png": "0", "x/a.jpg": "1"}),
    "by path": (["p1/v.jpg", "p2/v.jpg"], {"p1/v.jpg": "0", "p2/v.jpg": "1", "p3/v.jpg": "no-line"}),
    "by path, other suffix": (["p1/v.jpg", "p2/v.jpg"], {"p1/v.png": "0", "p2/v": "1", "p3/v.png": "no-line"}),
    "by path, two of a stem": (["p1/v", "p2/v"], {"p1/v.png": "ambiguous-name", "p1/v.jpg": "ambiguous-name"}),
    "leading folder": (["D/train/p1/v.jpg", "D/train/p2/v.jpg"], {"train/p1/v.jpg": "0", "train/p2/v.jpg": "1"}),
    "two leading folders": (["D/train/p1/v.jpg", "D/train/p2/v.jpg"], {"p1/v.jpg": "0", "p2/v.jpg": "1"}),
    "folder of the images": (["p1/v.jpg", "p2/v.jpg"], {"files/p1/v.jpg": "0", "files/p2/v.jpg": "1"}),
    "another leading folder": (["D/p1/v.jpg", "D/p2/v.jpg"], {"E/p1/v.jpg": "0", "E/p2/v.jpg": "1"}),
    "flattened copy": (["p1/a.jpg", "p2/b.jpg", "p3/v.jpg", "p4/v.jpg"], {"a.jpg": "0", "v.jpg": "ambiguous-name"}),
    "backslashes": ([r"p1\v.jpg", r"p2\v.jpg"], {"p1/v.jpg": "0", "p2/v.jpg": "1"}),
    "in archives, by name": (["a.png", "b.png"], {"1.tar.gz/x/a.png": "0", "2.tar.gz/x/b.png": "1"}),
    "in archives, by path": (
        ["D/train/p1/v.jpg", "D/valid/p1/v.jpg"],
        {"t.zip/D/train/p1/v.jpg": "0", "u/v.zip/D/valid/p1/v.jpg": "1", "D/test/p1/v.jpg": "no-line"},
    ),
    "in two archives": (
        ["p1/v.jpg", "p2/v.jpg"],
        {"a.tar/p1/v.jpg": "ambiguous-name", "b.tar/p1/v.jpg": "ambiguous-name"},
    ),
    "in one archive": (["D/p1/v.jpg", "D/p2/v.jpg"], {"a.tar/D/p1/v.jpg": "0", "a.tar/D/p2/v.jpg": "1"}),
    "named with the archive": (["a.tfrec/000", "b.tfrec/000"], {"a.tfrec/000": "0", "b.tfrec/000": "1"}),
    "absolute paths": (["/data/p1/v.jpg", "/data/p2/v.jpg"], {"p1/v.jpg": "0", "p2/v.jpg": "1"}),
}


@pytest.mark.parametrize(("lines", "expected"), CASES.values(), ids=CASES)
def test_every_image_gets_its_own_line_or_none(tmp_path: Path, lines: list[str], expected: dict[str, str]) -> None:
    """Each rule of the matching, with the patient of the line that an image gets or the reason why it gets none."""
    assert match(tmp_path, lines, list(expected))[1] == expected


def test_a_second_image_of_a_name_makes_it_ambiguous(tmp_path: Path) -> None:
    """An image that arrives later never gets the metadata of its namesake."""
    matcher, found = match(tmp_path, ["a.png"], ["x/a.png"])
    assert found == {"x/a.png": "0"}
    (row,) = matcher.match(["y/a.png"]).to_pylist()
    assert (row["patient_id"], row["metadata_status"]) == (None, "ambiguous-name")


def test_images_that_are_known_later_are_matched_by_path(tmp_path: Path) -> None:
    """Images of a stream are unknown at first: the first ones decide how to match, and count for the next ones."""
    matcher, _ = match(tmp_path, ["D/p1/v.jpg", "D/p2/v.jpg", "D/p3/w.jpg"], [])
    assert not matcher.by_path
    for images, patients in (
        (["1.tgz/D/p1/v.jpg"], ["0"]),
        (["2.tgz/D/p2/v.jpg", "2.tgz/D/p4/v.jpg"], ["1", None]),
        (["3.tgz/D/p1/v.jpg"], [None]),
    ):
        assert matcher.match(images)["patient_id"].to_pylist() == patients
    assert matcher.find_unused(["1.tgz/D/p1/v.jpg"]) == ["D/p1/v.jpg", "D/p2/v.jpg", "D/p3/w.jpg"]


def test_a_rejected_line_is_told_from_none(tmp_path: Path) -> None:
    """An image whose line was rejected says so."""
    (tmp_path / "t.csv").write_text(f"{HEADER_SHORT}\na.png,Mass,0,,1,M,PA\n")
    known = load_image_metadata([str(tmp_path / "t.csv")], ["a.png", "b.png"])
    assert known.matcher.match(["a.png", "b.png"])["metadata_status"].to_pylist() == ["rejected-line", "no-line"]


def test_the_rule_is_said(tmp_path: Path) -> None:
    """The log names the rule and the folder that was left out; lines without an image are known."""
    matcher, _ = match(tmp_path, ["D/p1/v.jpg", "D/p2/v.jpg", "D/p3/v.jpg"], ["p1/v.jpg", "p2/v.jpg"])
    assert matcher.describe() == "images are matched with the metadata by path, without the leading D/ of the table"
    assert matcher.find_unused(["p1/v.jpg", "p2/v.jpg"]) == ["D/p3/v.jpg"]
    matcher, _ = match(tmp_path, ["a.png"], ["a.png"])
    assert matcher.describe() == "images are matched with the metadata by file name"
