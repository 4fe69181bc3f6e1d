"""The one reader of metadata tables: every cell and every line has one expected outcome."""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrfeat.errors import ConfigError, MetadataError
from cxrfeat.io.schema import METADATA_LINES
from cxrfeat.labels.findings import FINDINGS
from cxrfeat.labels.metadata import Metadata, read_metadata
from tests.nih_lines import HEADER_2017, HEADER_SHORT, HEADER_V2020

GOOD = {  # line -> (follow_up, age_years, sex, view, findings)
    "a.png,No Finding,0,1,058Y,M,PA": (0, 58.0, "M", "PA", []),
    "b.png,Mass|Nodule|Atelectasis|Mass,3,1,006M,F,AP": (3, 0.5, "F", "AP", ["Atelectasis", "Mass", "Nodule"]),
    "c.png,Hernia,,2,012D,f,": (None, 12 / 365.2425, "F", None, ["Hernia"]),
    "d.png,,0,2,,,PA": (0, None, None, "PA", None),
    "e.png, Edema | Mass ,0,2,52W,M,LL": (0, 52 / 52.1775, "M", "LL", ["Mass", "Edema"]),
    "f.png,No Finding,0,3,0,M,PA": (0, 0.0, "M", "PA", []),
    "g.png,No Finding,0,3,123,M,PA": (0, 123.0, "M", "PA", []),
    '"h,1.png",No Finding,0,3,57.0,M,PA': (0, 57.0, "M", "PA", []),
}

Row = dict[str, Any]


def read(folder: Path, text: str | bytes, name: str = "metadata.csv") -> Metadata:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_metadata([str(path)])


def read_line(folder: Path, line: str, header: str = HEADER_SHORT) -> Row:
    (row,) = read(folder, f"{header}\n{line}\n").lines.to_pylist()
    return dict(row)


@pytest.mark.parametrize(
    ("header", "tail"), [(HEADER_V2020, ",1,1,1,1"), (HEADER_2017, ",1,1,1,1,")], ids=["v2020", "2017"]
)
def test_good_lines_are_parsed(tmp_path: Path, header: str, tail: str) -> None:
    """Both published headers load, with every value in its type."""
    metadata = read(tmp_path, "\n".join([header, *(line + tail for line in GOOD)]))
    assert metadata.lines.schema == METADATA_LINES
    assert len(metadata.rejected()) == 0
    for row, expected in zip(metadata.lines.to_pylist(), GOOD.values(), strict=True):
        values = (row["follow_up"], row["age_years"], row["sex"], row["view_position"], row["findings"])
        age = None if expected[1] is None else pytest.approx(expected[1], rel=1e-6)
        assert values == (expected[0], age, *expected[2:])
        assert row["findings_unknown"] is row["findings_uncertain"] is None  # the table names positive labels alone


CELLS: dict[str, dict[str, tuple[object, str | None]]] = {  # column -> cell -> (value, reason)
    "age_years": {
        "58": (58, None),
        "058Y": (58, None),
        "006M": (0.5, None),
        "12D": (12 / 365.2425, None),
        "052W": (52 / 52.1775, None),
        "58.0": (58, None),
        "90+": (90, None),
        ">89": (89, None),
        "58 years": (58, None),
        " 58 ": (58, None),
        "0": (0, None),
        "123": (123, None),
        "411": (None, "age-out-of-range"),
        "414Y": (None, "age-out-of-range"),
        "123.5": (None, "age-out-of-range"),
        "-1": (None, "age-out-of-range"),
        "old": (None, "age-unreadable"),
        "58X": (None, "age-unreadable"),
        "5e1": (None, "age-unreadable"),
        "٥٨": (None, "age-unreadable"),
        "9" * 400: (None, "age-unreadable"),
        "": (None, None),
        "NaN": (None, None),
        "nan": (None, None),
        "None": (None, None),
        "NA": (None, None),
        "N/A": (None, None),
    },
    "sex": {
        "M": ("M", None),
        "f": ("F", None),
        "Male": ("M", None),
        "FEMALE": ("F", None),
        "O": (None, None),
        "U": (None, None),
        "Unknown": (None, None),
        "nan": (None, None),
        "": (None, None),
        "X": (None, "sex-unknown"),
        "1": (None, "sex-unknown"),
    },
    "follow_up": {
        "0": (0, None),
        "0.0": (0, None),
        "007": (7, None),
        "": (None, None),
        "NaN": (None, None),
        "x": (None, "follow-up-unreadable"),
        "1.5": (None, "follow-up-unreadable"),
        "99999999999": (None, "follow-up-unreadable"),
    },
    "view_position": {"PA": ("PA", None), " AP ": ("AP", None), "": (None, None), "nan": (None, None)},
    "findings": {
        "Fracture|Mass": (["Mass", "Fracture"], None),
        "Pleural Thickening": (["Pleural Thickening"], None),
        "Mass|": (["Mass"], None),
        "|": (None, None),
        "No Finding": ([], None),
        "no_finding": ([], None),
        "No Finding|Mass": (["Mass"], "findings-contradict"),
        "Mass|Mass": (["Mass"], None),
        "Nodule|Zebra|Atelectasis|Ape": (["Atelectasis", "Nodule", "Zebra", "Ape"], None),
        "['Mass', 'Edema']": (None, None),  # replaced below: a list needs quotes in CSV
        "[broken": (["[broken"], None),
        "NaN": (None, None),
        "": (None, None),
    },
}
del CELLS["findings"]["['Mass', 'Edema']"]
CELLS["findings"]["\"['Mass', 'Edema']\""] = (["Mass", "Edema"], None)
CELLS["findings"]["\"['', 'Mass']\""] = (["Mass"], None)
CELLS["findings"]['"[Mass]"'] = (None, "labels-unreadable")
PLACES = {"findings": 1, "follow_up": 2, "age_years": 4, "sex": 5, "view_position": 6}
CASES = [(column, cell, *expected) for column, cells in CELLS.items() for cell, expected in cells.items()]


@pytest.mark.parametrize(("column", "cell", "value", "reason"), CASES, ids=[f"{c}-{t[:20]}" for c, t, *_ in CASES])
def test_a_cell_costs_itself_alone(tmp_path: Path, column: str, cell: str, value: object, reason: str | None) -> None:
    """An unreadable cell is null and counted with its line; the other cells of its line stay."""
    fields = ["a.png", "Mass", "3", "7", "58", "M", "PA"]
    fields[PLACES[column]] = cell
    metadata = read(tmp_path, f"{HEADER_SHORT}\n{','.join(fields)}\n")
    (row,) = metadata.lines.to_pylist()
    assert row["status"] == "ok"
    assert row[column] == (pytest.approx(value, rel=1e-6) if isinstance(value, float | int) else value)
    others = {
        "follow_up": 3,
        "age_years": 58,
        "sex": "M",
        "view_position": "PA",
        "findings": ["Mass"],
        "patient_id": "7",
    }
    assert all(row[name] == other for name, other in others.items() if name != column)
    header = HEADER_SHORT.split(",")[PLACES[column]]
    assert metadata.cell_errors.counts == ({(header, reason): 1} if reason else {})
    if reason:
        assert metadata.cell_errors.describe()[0].endswith("in line 2")


LINES: dict[str, str | None] = {  # line -> reason of its rejection, or None
    "a.png,Mass,0,1,1,M,PA": None,
    "a.png,Mass,0,1,1,M,PA,,": None,
    "a.png,Mass,0,1,1,M": None,
    "a.png,Mass,0,1": None,
    '"a.png","Mass",0,"1",1,M,PA': None,
    '"a ""b"".png",Mass,0,1,1,M,PA': None,
    '"a\nb.png",Mass,0,1,1,M,PA': None,
    "a.png,Mass,0,1,1,M,PA,extra": "malformed",
    "a.png,Mass,0": "malformed",
    "a.png": "malformed",
    '"a.png,Mass,0,1,1,M,PA': "malformed",
    ",Mass,0,1,1,M,PA": "image-index-missing",
    "nan,Mass,0,1,1,M,PA": "image-index-missing",
    "a.png,Mass,0,,1,M,PA": "patient-id-missing",
    "a.png,Mass,0,nan,1,M,PA": "patient-id-missing",
    "a.png,Mass,0,NaN,1,M,PA": "patient-id-missing",
    "a.png,Mass,0,None,1,M,PA": "patient-id-missing",
    "a.png,Mass,0,NA,1,M,PA": "patient-id-missing",
    "a" * 200_000 + ",Mass,0,1,1,M,PA": "malformed",
}


@pytest.mark.parametrize(("line", "reason"), LINES.items(), ids=[line[:30] for line in LINES])
def test_a_line_is_rejected_for_its_image_or_patient_alone(tmp_path: Path, line: str, reason: str | None) -> None:
    """A rejected line keeps its text and its reason, and the line after it is read."""
    metadata = read(tmp_path, f"{HEADER_SHORT}\n{line}\nnext.png,Edema,0,2,30,F,PA\n")
    row, following = metadata.lines.to_pylist()
    assert (row["reason"], row["status"]) == (reason, "rejected" if reason else "ok")
    assert row["line"] == line
    assert following["image_index"] == "next.png"
    assert following["status"] == "ok"


def test_lines_about_one_image(tmp_path: Path) -> None:
    """Lines that agree count once, the most complete one; lines that contradict are all rejected."""
    names = ("same", "same", "two", "two", "once", "once")
    ages = ("1", "001Y", "1", "2", "414Y", "1")
    lines = [f"{name}.png,Mass,0,1,{age},M,PA" for name, age in zip(names, ages, strict=True)]
    metadata = read(tmp_path, "\n".join([HEADER_SHORT, *lines]))
    assert {row["image_index"]: row["age_years"] for row in metadata.accepted().to_pylist()} == {
        "same.png": 1,
        "once.png": 1,
    }
    assert Counter(metadata.rejected()["reason"].to_pylist()) == {
        "image-index-repeated": 2,
        "image-index-conflict": 2,
    }


@settings(max_examples=30)
@given(st.lists(st.sampled_from([*GOOD, *LINES]), max_size=12))
def test_every_line_has_one_fate_in_any_order(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    """No line is lost, and another order changes neither the images nor the reasons."""
    folder = tmp_path_factory.mktemp("lines")
    fates = []
    for order in (lines, lines[::-1]):
        table = read(folder, "\n".join([HEADER_SHORT, *order, ""])).lines
        assert len(table) == len(lines)
        fates.append(sorted((row["line"], row["reason"] or "", row["status"]) for row in table.to_pylist()))
    assert fates[0] == fates[1]


LINE = "a.png,Mass,0,1,58,M,PA"
SHAPES: dict[str, bytes] = {
    "LF": f"{HEADER_SHORT}\n{LINE}\n".encode(),
    "no end": f"{HEADER_SHORT}\n{LINE}".encode(),
    "CRLF": f"{HEADER_SHORT}\r\n{LINE}\r\n".encode(),
    "CR": f"{HEADER_SHORT}\r{LINE}\r".encode(),
    "BOM": f"\ufeff{HEADER_SHORT}\n{LINE}\n".encode(),
    "UTF-16 LE": f"\ufeff{HEADER_SHORT}\n{LINE}\n".encode("utf-16-le"),
    "UTF-16 BE": f"\ufeff{HEADER_SHORT}\n{LINE}\n".encode("utf-16-be"),
    "blank first line": f"\n\n{HEADER_SHORT}\n\n{LINE}\n\n".encode(),
    "repeated header": f"{HEADER_SHORT}\n{LINE}\n{HEADER_SHORT}\n".encode(),
    "gzip": gzip.compress(f"{HEADER_SHORT}\n{LINE}\n".encode()),
    "semicolons": f"{HEADER_SHORT}\n{LINE}\n".replace(",", ";").encode(),
    "tabs": f"{HEADER_SHORT}\n{LINE}\n".replace(",", "\t").encode(),
    "blanks and case": f"{HEADER_SHORT}\n{LINE}\n".replace(",", " , ").replace("Image Index", "IMAGE INDEX").encode(),
    "quoted header": ('"' + HEADER_SHORT.replace(",", '","') + f'"\n{LINE}\n').encode(),
    "other order": b"Patient ID,Patient Gender,Image Index,View Position,Finding Labels,Follow-up #,Patient Age\n"
    b"1,M,a.png,PA,Mass,0,58\n",
    "Patient Sex": f"{HEADER_SHORT}\n{LINE}\n".replace("Gender", "Sex").encode(),
}


@pytest.mark.parametrize("content", SHAPES.values(), ids=SHAPES)
def test_every_shape_of_file_gives_the_same_row(tmp_path: Path, content: bytes) -> None:
    """Encoding, line ends, separators and order of columns change nothing."""
    (row,) = read(tmp_path, content).lines.drop_columns(["line"]).to_pylist()
    expected = read_line(tmp_path, LINE)
    assert row == {name: value for name, value in expected.items() if name != "line"}


UNUSABLE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "blank": (b"\n \n\n", "is empty"),
    "Latin-1": (f"{HEADER_SHORT}\nä.png,Mass,0,1,1,M,PA\n".encode("latin-1"), r"byte 0xe4 in line 2 .*Latin-1"),
    "UTF-16 without a mark": (HEADER_SHORT.encode("utf-16-le"), "UTF-16 without a byte-order mark"),
    "zip": (b"PK\x03\x04...", "a zip archive or an Excel workbook"),
    "xls": (b"\xd0\xcf\x11\xe0...", "an old Excel workbook"),
    "Parquet": (b"PAR1...", "a Parquet file"),
    "cut gzip": (gzip.compress(b"x" * 1000)[:20], "cannot read"),
    "unknown header": (b"Name,Diagnosis\nx,y\n", r"unknown columns Name, Diagnosis; the nearest known table is .*TOML"),
    "lacks a column": (b"Image Index,Finding Labels\nx,y\n", r"nearest known table is nih-v2020, .* has Patient ID"),
    "column twice": (HEADER_SHORT.encode() + b",Patient Age\n", "2 columns Patient Age"),
}


@pytest.mark.parametrize(("content", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_unusable_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """The error says what the file is, and what was expected."""
    with pytest.raises(MetadataError, match=message):
        read(tmp_path, content)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """The error names the file."""
    with pytest.raises(ConfigError, match=r"none\.csv' does not exist"):
        read_metadata([str(tmp_path / "none.csv")])


def test_many_stray_quotes_cost_their_own_lines(tmp_path: Path) -> None:
    """A quote that is never closed does not swallow the lines after it."""
    lines = [f'"{n}.png,Mass,0,{n},1,M,PA' if n % 3 == 0 else f"{n}.png,Mass,0,{n},1,M,PA" for n in range(900)]
    metadata = read(tmp_path, "\n".join([HEADER_SHORT, *lines]))
    assert Counter(metadata.lines["status"].to_pylist()) == {"rejected": 300, "ok": 600}


@pytest.mark.shared
def test_the_full_file_is_read_whole(shared: Path) -> None:
    """The full v2020 file gives the published numbers of images, patients and findings, and rejects nothing."""
    metadata = read_metadata([str(shared / "nih" / "Data_Entry_2017_v2020.csv.gz")])
    table: pa.Table = metadata.lines
    assert table.num_rows == 112_120
    assert set(table["status"].to_pylist()) == {"ok"}
    assert not metadata.cell_errors.counts
    assert len(table["patient_id"].unique()) == 30_805
    assert Counter(table["sex"].to_pylist()) == {"M": 63_340, "F": 48_780}
    labels = table["findings"].to_pylist()
    assert sum(not findings for findings in labels) == 60_361
    found = Counter(finding for findings in labels for finding in findings)
    counts = [11559, 2776, 13317, 19894, 5782, 6331, 1431, 5302, 4667, 2303, 2516, 1686, 3385, 227]
    assert [found[finding] for finding in FINDINGS] == counts
    ages = table["age_years"].to_numpy()
    assert (ages.min(), ages.max()) == (0, 95)
