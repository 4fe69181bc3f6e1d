"""The metadata CSV: every line ends up accepted or rejected with the right reason, in Spark SQL."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from pyspark.sql import Row, SparkSession

from cxrfeat.errors import MetadataError
from cxrfeat.io.schema import METADATA_LINES
from cxrfeat.labels.findings import FINDINGS
from cxrfeat.spark.metadata_reader import read_metadata
from tests.nih_lines import BAD, GOOD, HEADER_2017, HEADER_V2020


def read(
    spark: SparkSession, folder: Path, lines: list[str], header: str = HEADER_V2020, tail: str = ",1,1,1,1"
) -> list[Row]:
    path = folder / "metadata.csv"
    whole = [line + tail if line.count(",") >= 6 else line for line in lines]
    path.write_text("\n".join([header, *whole]) + "\n")
    return read_metadata(spark, str(path)).collect()


@pytest.mark.parametrize(
    ("header", "tail"), [(HEADER_V2020, ",1,1,1,1"), (HEADER_2017, ",1,1,1,1,")], ids=["v2020", "2017"]
)
def test_good_lines_are_parsed(spark: SparkSession, tmp_path: Path, header: str, tail: str) -> None:
    """Both published headers load, and ages, sex, view and findings come out typed and canonical."""
    rows = {row.line.removesuffix(tail): row for row in read(spark, tmp_path, list(GOOD), header, tail)}
    assert {row.status for row in rows.values()} == {"ok"}
    for line, expected in GOOD.items():
        row = rows[line]
        assert (row.follow_up, row.sex, row.view_position, row.findings) == (expected[0], *expected[2:]), line
        assert row.age_years == (None if expected[1] is None else pytest.approx(expected[1], rel=1e-6)), line


def test_bad_lines_are_kept_with_their_reason(spark: SparkSession, tmp_path: Path) -> None:
    """Each kind of bad line is rejected for its own reason, with its value in the message and its text kept."""
    rows = read(spark, tmp_path, list(BAD))
    assert len(rows) == len(BAD)
    for row in rows:
        line = next(line for line in BAD if row.line in (line, line + ",1,1,1,1"))
        reason, part = BAD[line]
        assert (row.status, row.reason) == ("rejected", reason), line
        assert part in row.message, line


def test_lines_about_one_image(spark: SparkSession, tmp_path: Path) -> None:
    """Equal lines about an image count once; lines that differ are all rejected; none disappears."""
    rows = read(
        spark,
        tmp_path,
        [
            "same.png,Mass,0,1,1,M,PA",
            "same.png,Mass,0,1,001Y,M,PA",
            "two.png,Mass,0,1,1,M,PA",
            "two.png,Mass,0,1,2,M,PA",
        ],
    )
    verdicts = sorted((row.image_index, row.status, row.reason) for row in rows if row.image_index == "two.png")
    assert verdicts == [("two.png", "rejected", "image-index-conflict")] * 2
    assert sorted(row.reason or "" for row in rows if row.image_index == "same.png") == ["", "image-index-repeated"]


def test_order_of_lines_does_not_matter(spark: SparkSession, tmp_path: Path) -> None:
    """The same lines in another order, gzipped, with CRLF, a byte-order mark and blank lines, give the same table."""
    lines = [line + ",1,1,1,1" for line in GOOD]
    first = read(spark, tmp_path, list(GOOD))
    other = tmp_path / "other.csv.gz"
    other.write_bytes(gzip.compress(("\ufeff" + "\r\n".join([HEADER_V2020, *reversed(lines), "", ""])).encode()))
    second = read_metadata(spark, str(other)).collect()
    assert sorted(first, key=str) == sorted(second, key=str)


def test_unusable_tables_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    """An empty file and a header without a needed column are errors that name what is missing and what was found."""
    empty = tmp_path / "empty.csv"
    empty.write_text("")
    with pytest.raises(MetadataError, match="is empty; expected a header"):
        read_metadata(spark, str(empty))
    with pytest.raises(MetadataError, match=r"lacks the columns Patient ID, Patient Gender or Patient Sex;"):
        read(spark, tmp_path, [], "Image Index,Finding Labels,Follow-up #,Patient Age,View Position")


def test_patient_sex_is_another_name_of_the_column(spark: SparkSession, tmp_path: Path) -> None:
    """Headers that say Patient Sex load as those that say Patient Gender."""
    rows = read(spark, tmp_path, ["a.png,Mass,0,1,1,F,PA"], HEADER_V2020.replace("Gender", "Sex"))
    assert [row.sex for row in rows] == ["F"]


def test_columns_are_the_schema(spark: SparkSession, tmp_path: Path) -> None:
    """The table has the columns of METADATA_LINES, split aside."""
    path = tmp_path / "metadata.csv"
    path.write_text(HEADER_V2020 + "\n")
    assert set(read_metadata(spark, str(path)).columns) == set(METADATA_LINES.names) - {"split"}


@pytest.mark.shared
def test_published_counts(spark: SparkSession, shared: Path) -> None:
    """The full v2020 file gives the published numbers of images, patients and findings, and rejects nothing."""
    table = read_metadata(spark, str(shared / "nih" / "Data_Entry_2017_v2020.csv.gz")).toArrow()
    assert table.num_rows == 112_120
    assert table["status"].value_counts().to_pylist() == [{"values": "ok", "counts": 112_120}]
    assert len(table["patient_id"].unique()) == 30_805
    assert {entry["values"]: entry["counts"] for entry in table["sex"].value_counts().to_pylist()} == {
        "M": 63_340,
        "F": 48_780,
    }
    labels = table["findings"].to_pylist()
    assert sum(not findings for findings in labels) == 60_361
    counts = [sum(finding in findings for findings in labels) for finding in FINDINGS]
    assert counts == [11559, 2776, 13317, 19894, 5782, 6331, 1431, 5302, 4667, 2303, 2516, 1686, 3385, 227]
    ages = table["age_years"].to_numpy()
    assert (ages.min(), ages.max()) == (0, 95)
