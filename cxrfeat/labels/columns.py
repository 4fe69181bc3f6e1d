"""The metadata CSV of ChestX-ray14: its header and ages, for Spark's reader and for the one that needs no JVM.

Both headers load: Data_Entry_2017 (trailing comma, ages as ``058Y``) and Data_Entry_2017_v2020.
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
"""Our name → the header's names."""

MAX_AGE_YEARS = 123
"""Oldest accepted age: nobody has lived longer. The 2018 system dropped such ages too."""

AGE_PATTERN = r"^(-?\d+(?:\.\d+)?)([YMWD]?)$"
"""Number and unit of an age: ``58``, ``058Y``, ``006M``."""

UNITS_PER_YEAR: Mapping[str, float] = {"": 1.0, "Y": 1.0, "M": 12.0, "W": 52.1775, "D": 365.2425}


def split_fields(line: str) -> list[str]:
    """Split one line of CSV; line by line, so that a stray quote can't swallow its neighbours."""
    return next(csv.reader([line]), [])


def find_columns(location: str, header: str, optional: Collection[str] = ()) -> dict[str, int]:
    """Return our name → place of each column; letters' case and blanks around names do not matter.

    Args:
        location: of the file, for the error.
        header: its first line, empty where there is none; a byte-order mark before it is no part of it.
        optional: columns, by our names, that need not be there.

    Raises:
        MetadataError: no header, or one without a column that is needed.
    """
    expected = [" or ".join(names) for names in HEADERS.values()]
    names = split_fields(header.lstrip("\ufeff"))
    if not names:
        raise MetadataError(f"{location} is empty; expected a header with {expected}")
    actual = [name.strip().lower() for name in names]
    found = {}
    for ours, theirs in HEADERS.items():
        known = [name.lower() for name in theirs if name.lower() in actual]
        if known:
            found[ours] = actual.index(known[0])
    odd = next((sign for sign in ";\t" if len(names) == 1 and sign in header), None)
    if odd is not None:
        raise MetadataError(f"{location} is separated by {odd!r}; expected ','")
    missing = [" or ".join(HEADERS[ours]) for ours in HEADERS if ours not in found and ours not in optional]
    if missing:
        raise MetadataError(f"{location} has no column {missing}; its header is {names}, expected {expected}")
    return found
