"""Columns and age units of the ChestX-ray14 metadata CSV, shared by the Spark reader and the pandas reader.

Both published files are supported: Data_Entry_2017 (trailing comma, ages such as ``058Y``) and Data_Entry_2017_v2020.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping

from cxrfeat.errors import MetadataError

HEADERS: Mapping[str, tuple[str, ...]] = {
    "image_index": ("Image Index",),
    "findings": ("Finding Labels",),
    "follow_up": ("Follow-up #",),
    "patient_id": ("Patient ID",),
    "age": ("Patient Age",),
    "sex": ("Patient Gender", "Patient Sex"),
    "view_position": ("View Position",),
}
"""Internal name of a column → its possible names in the header."""

MAX_AGE_YEARS = 123
"""Highest accepted age, about the longest documented human life. The 2018 system also dropped higher ages."""

AGE_PATTERN = r"^(-?\d+(?:\.\d+)?)([YMWD]?)$"
"""Number and unit of an age: ``58``, ``058Y``, ``006M``."""

UNITS_PER_YEAR: Mapping[str, float] = {"": 1.0, "Y": 1.0, "M": 12.0, "W": 52.1775, "D": 365.2425}


def split_fields(line: str) -> list[str]:
    """Split one line of CSV; each line is parsed alone, so an unmatched quote does not affect the next lines."""
    return next(csv.reader([line]), [])


def find_columns(location: str, header: str, optional: Collection[str] = ()) -> dict[str, int]:
    """Return internal name → index of each column, ignoring case and surrounding blanks.

    Args:
        location: path or URI of the file, for error messages.
        header: first line of the file, or an empty string; a leading byte-order mark is ignored.
        optional: internal names of columns that may be missing.

    Raises:
        MetadataError: the header is empty or lacks a required column.
    """
    expected = ", ".join(" or ".join(names) for names in HEADERS.values())
    names = split_fields(header.lstrip("\ufeff"))
    if not names:
        raise MetadataError(f"{location} is empty; expected a header with the columns {expected}")
    actual = [name.strip().lower() for name in names]
    found = {}
    for column, spellings in HEADERS.items():
        matches = [name.lower() for name in spellings if name.lower() in actual]
        if matches:
            found[column] = actual.index(matches[0])
    separator = next((sign for sign in ";\t" if len(names) == 1 and sign in header), None)
    if separator is not None:
        raise MetadataError(f"{location} uses the separator {separator!r}; expected ','")
    missing = [" or ".join(HEADERS[column]) for column in HEADERS if column not in found and column not in optional]
    if missing:
        raise MetadataError(
            f"{location} lacks the columns {', '.join(missing)}; found {', '.join(names)}, expected {expected}"
        )
    return found
