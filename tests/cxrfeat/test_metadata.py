"""What the reader without Spark promises: the lines that Spark reads, as it reads them, or one clear refusal."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from cxrfeat.errors import MetadataError
from cxrfeat.metadata import parse_age, read_truth

V2020 = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position\n"
V2017 = V2020.replace("Gender", "Sex").replace("Position\n", "Position,OriginalImage[Width,Height],\n")


def write(folder: Path, text: str) -> Path:
    path = folder / "truth.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("58", 58), ("058Y", 58), ("006M", 0.5), ("0", 0), ("123", 123), ("1.5", 1.5), ("", None), ("124", None),
        ("414Y", None), ("-1", None), ("Y", None), ("58 years", None),
    ],
)  # fmt: skip
def test_ages_are_years_or_nothing(text: str, years: float | None) -> None:
    """Both notations of NIH; what is no age of a person is None."""
    assert parse_age(text) == years


def test_weeks_and_days_are_parts_of_a_year() -> None:
    """A year is 365.2425 days."""
    assert parse_age("012D") == pytest.approx(12 / 365.2425)
    assert parse_age("010W") == pytest.approx(70 / 365.2425)


def test_both_headers_load_plain_and_zipped(tmp_path: Path) -> None:
    """The same row, whatever the header and the compression."""
    expected = {
        "image_index": "a.png", "patient_id": "007", "age_years": 58.0, "sex": "M", "view_position": "PA",
        "findings": ["Mass", "Hernia"],
    }  # fmt: skip
    plain = write(tmp_path, V2020 + "a.png, Hernia|Mass,0,007,58,m,PA\n")
    assert read_truth(plain).table.to_pylist() == [expected]
    zipped = tmp_path / "old.csv.gz"
    zipped.write_bytes(gzip.compress((V2017 + "a.png,Hernia|Mass,0,007,058Y,M,PA,2682,2749,\n").encode()))
    assert read_truth(zipped).table.to_pylist() == [expected]


def test_what_a_line_lacks_is_null_and_ages_are_counted(tmp_path: Path) -> None:
    """No Finding is the empty list; an impossible age is null and counted, a missing one only null."""
    lines = "a.png,No Finding,0,1,414Y,,\nb.png,Edema,0,1,,X,AP\nc.png,Edema,0,2,3,F,AP\n"
    truth = read_truth(write(tmp_path, V2020 + lines))
    rows = truth.table.to_pylist()
    assert [row["findings"] for row in rows] == [[], ["Edema"], ["Edema"]]
    assert [(row["age_years"], row["sex"], row["view_position"]) for row in rows] == [
        (None, None, None), (None, None, "AP"), (3.0, "F", "AP")
    ]  # fmt: skip
    assert truth.ages_unusable == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "truth.csv can't be read"),
        (V2020 + "a.png,Edema,0,1,3,F\n", "truth.csv can't be read: .*Expected 7 columns, got 6"),
        (V2020.replace("View Position", "View"), "no column 'View Position'; its header is"),
        (V2020.replace("Patient Gender", "Sex"), "no column 'Patient Gender or Patient Sex'"),
        (V2020 + "a.png,Edema|Fever,0,1,3,F,PA\n", "image a.png: label 'Edema|Fever' names"),
        (V2020 + "a.png,,0,1,3,F,PA\n", "image a.png: label '' names"),
        (V2020 + "a.png,Edema,0,,3,F,PA\n", "1 lines have no Patient ID"),
        (V2020 + ",Edema,0,1,3,F,PA\n", "1 lines have no Image Index"),
        (V2020 + "a.png,Edema,0,1,3,F,PA\n" * 2, r"1 images have several lines; the first: \['a.png'\]"),
    ],
)
def test_a_file_that_cannot_be_trusted_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """No line is ever dropped: the error says which one is wrong."""
    with pytest.raises(MetadataError, match=message.replace("|", r"\|")):
        read_truth(write(tmp_path, text))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """As a metadata error, by name."""
    with pytest.raises(MetadataError, match=r"nowhere\.csv can't be read"):
        read_truth(tmp_path / "nowhere.csv")


@pytest.mark.shared
def test_the_file_of_nih_has_its_published_counts(shared: Path) -> None:
    """All 112,120 lines, 60,361 without a finding and 227 hernias; every age can be used."""
    truth = read_truth(shared / "nih" / "Data_Entry_2017_v2020.csv.gz")
    findings = truth.table["findings"].to_pylist()
    assert len(findings) == 112_120
    assert sum(not names for names in findings) == 60_361
    assert sum("Hernia" in names for names in findings) == 227
    assert truth.table["sex"].to_pylist().count("M") == 63_340
    assert truth.ages_unusable == 0
