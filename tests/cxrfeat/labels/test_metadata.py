"""The metadata CSV without Spark: the same verdict for every line as the extraction's reader, and the same splits."""

from __future__ import annotations

import csv
import gzip
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrfeat.errors import ConfigError, MetadataError
from cxrfeat.labels.findings import FINDINGS, NO_FINDING, format_findings
from cxrfeat.labels.metadata import Metadata, assign_splits, read_list, read_metadata
from cxrfeat.labels.splits import split_by_hash, split_train_val
from tests.nih_lines import BAD, GOOD, HEADER_2017, HEADER_V2020


def read(folder: Path, lines: list[str], header: str = HEADER_V2020, tail: str = ",1,1,1,1") -> Metadata:
    path = folder / "metadata.csv"
    path.write_text("\n".join([header, *(line + tail if line.count(",") >= 6 else line for line in lines)]) + "\n")
    return read_metadata(str(path))


@pytest.mark.parametrize(
    ("header", "tail"), [(HEADER_V2020, ",1,1,1,1"), (HEADER_2017, ",1,1,1,1,")], ids=["v2020", "2017"]
)
def test_good_lines_are_parsed(tmp_path: Path, header: str, tail: str) -> None:
    """Both published headers load, and every value comes out as Spark's reader gives it."""
    metadata = read(tmp_path, list(GOOD), header, tail)
    assert metadata.rejected.empty
    columns = ["follow_up", "age_years", "sex", "view_position", "findings"]
    for row, expected in zip(metadata.images[columns].to_dict("records"), GOOD.values(), strict=True):
        values = [None if pd.isna(value) else value for value in row.values()]
        follow_up, age, sex, view, findings = expected
        label = None if findings is None else format_findings(findings)
        assert values == [follow_up, None if age is None else pytest.approx(age, rel=1e-6), sex, view, label]


def test_bad_lines_are_kept_with_their_reason(tmp_path: Path) -> None:
    """Each kind of bad line is rejected for its own reason, with its value in the message, its text and its number."""
    metadata = read(tmp_path, list(BAD))
    assert metadata.images.empty
    assert metadata.rejected["number"].tolist() == list(range(2, 2 + len(BAD)))
    rows = metadata.rejected.to_dict("records")
    for (line, (reason, part)), row in zip(BAD.items(), rows, strict=True):
        assert row["reason"] == reason, line
        assert part in row["message"], line
        assert row["line"].startswith(line)


def test_lines_about_one_image(tmp_path: Path) -> None:
    """Equal lines about an image count once; conflicting lines are all rejected; invalid lines do not count."""
    names = ("same", "same", "two", "two", "once", "once")
    ages = ("1", "001Y", "1", "2", "1", "414Y")
    lines = [f"{name}.png,Mass,0,1,{age},M,PA" for name, age in zip(names, ages, strict=True)]
    metadata = read(tmp_path, lines)
    assert metadata.images["image_index"].tolist() == ["same.png", "once.png"]
    assert Counter(metadata.rejected["reason"]) == {
        "image-index-repeated": 1, "image-index-conflict": 2, "age-out-of-range": 1
    }  # fmt: skip


@settings(max_examples=30)
@given(st.lists(st.sampled_from([*GOOD, *BAD]), max_size=12))
def test_every_line_has_one_fate_in_any_order(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    """Images and rejected lines add up to the lines, and another order changes neither."""
    folder = tmp_path_factory.mktemp("lines")
    first = read(folder, lines)
    assert len(first.images) + len(first.rejected) == first.lines == len(lines)
    second = read(folder, sorted(lines))
    by = ["image_index", "patient_id"]
    pd.testing.assert_frame_equal(
        first.images.sort_values(by, ignore_index=True), second.images.sort_values(by, ignore_index=True)
    )
    assert Counter(first.rejected["reason"]) == Counter(second.rejected["reason"])


def test_gzip_windows_lines_and_byte_order_mark(tmp_path: Path) -> None:
    """The same lines, gzipped, with CRLF, a byte-order mark, blank lines and a second header, give the same table."""
    first = read(tmp_path, list(GOOD))
    lines = [HEADER_V2020, *(line + ",1,1,1,1" for line in GOOD), "", HEADER_V2020]
    other = tmp_path / "other.csv.gz"
    other.write_bytes(gzip.compress(("\ufeff" + "\r\n".join(lines)).encode()))
    pd.testing.assert_frame_equal(first.images, read_metadata(str(other)).images)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; expected a header"),
        (
            b"Image Index,Finding Labels,Follow-up #,Patient Age,View Position\n",
            r"lacks the columns Patient ID, Patient Gender or",
        ),
        (HEADER_V2020.encode() + b"\n\xff\xfe", r"cannot read .*\.csv as UTF-8 text"),
    ],
)
def test_unusable_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """An empty file, a missing column and binary content each give one clear error."""
    path = tmp_path / "metadata.csv"
    path.write_bytes(content)
    with pytest.raises(MetadataError, match=message):
        read_metadata(str(path))
    with pytest.raises(ConfigError, match="does not exist; expected a file"):
        read_metadata(str(tmp_path / "none.csv"))


def images(*pairs: tuple[str, str]) -> pd.DataFrame:
    return pd.DataFrame(pairs, columns=["image_index", "patient_id"])


def test_splits_are_those_of_the_extraction(tmp_path: Path) -> None:
    """By hash without lists; with lists the patient goes with any listed image, the others still by hash."""
    table = images(*((f"{patient}_{n}.png", str(patient)) for patient in range(60) for n in range(2)))
    by_hash = {str(patient): split_by_hash(str(patient)).value for patient in range(60)}
    assert assign_splits(table).tolist() == [by_hash[patient] for patient in table["patient_id"]]
    lists = [tmp_path / "train_val.txt", tmp_path / "test.txt"]
    lists[0].write_text("".join(f"{patient}_0.png\n" for patient in range(30)))
    lists[1].write_text("".join(f"{patient}_1.png\r\n" for patient in range(30, 40)))
    expected = {str(patient): split_train_val(str(patient)).value for patient in range(30)}
    expected |= {str(patient): "test" for patient in range(30, 40)}
    assert assign_splits(table, *map(str, lists)).tolist() == [
        {**by_hash, **expected}[patient] for patient in table["patient_id"]
    ]


def test_a_list_has_each_name_once(tmp_path: Path) -> None:
    """Blank lines, blanks around names and Windows' line ends do not count; doubled and missing ones are refused."""
    path = tmp_path / "list.txt"
    path.write_bytes(b"a 1.png \r\nb.png\n\n")
    assert read_list(str(path)) == ["a 1.png", "b.png"]
    path.write_text("a.png\na.png\n")
    with pytest.raises(MetadataError, match="2 names, 1 of them unique; expected no duplicates"):
        read_list(str(path))
    with pytest.raises(ConfigError, match=r"no\.txt.* does not exist"):
        read_list(str(tmp_path / "no.txt"))


def test_lists_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    """One list alone, an empty list, and two lists that share a patient are rejected."""
    table = images(("a.png", "1"), ("b.png", "1"))
    for name, content in {"a": "a.png\n", "b": "b.png\n", "empty": "\n"}.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match="give both"):
        assign_splits(table, str(tmp_path / "a"))
    with pytest.raises(MetadataError, match="is empty; expected one file name per line"):
        assign_splits(table, str(tmp_path / "a"), str(tmp_path / "empty"))
    with pytest.raises(MetadataError, match=r"1 patients have images in both .* The first: 1$"):
        assign_splits(table, str(tmp_path / "a"), str(tmp_path / "b"))


@pytest.mark.shared
def test_the_full_file_is_read_whole(shared: Path) -> None:
    """Every count is that of a direct count of the CSV: lines, patients, sexes, views, findings, official splits."""
    path = shared / "nih" / "Data_Entry_2017_v2020.csv.gz"
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    metadata = read_metadata(str(path))
    assert (len(metadata.images), len(metadata.rejected)) == (len(rows), 0)
    assert set(metadata.images["patient_id"]) == {row["Patient ID"] for row in rows}
    for ours, theirs in (("sex", "Patient Gender"), ("view_position", "View Position"), ("age_years", "Patient Age")):
        counted = Counter(float(row[theirs]) if ours == "age_years" else row[theirs] for row in rows)
        assert Counter(metadata.images[ours]) == counted
    labels = Counter(label for row in rows for label in row["Finding Labels"].split("|"))
    assert Counter(label for value in metadata.images["findings"] for label in value.split("|")) == labels
    assert set(labels) == {NO_FINDING, *FINDINGS}
    lists = [str(shared / "nih" / name) for name in ("train_val_list.txt", "test_list.txt")]
    assert Counter(assign_splits(metadata.images, *lists)) == {"train": 76_193, "val": 10_331, "test": 25_596}
