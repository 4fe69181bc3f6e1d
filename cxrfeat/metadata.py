"""The rules of NIH-style metadata files, for every engine that reads them: names of columns, and what an age may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

COLUMNS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "image_index": ("Image Index",),
        "findings": ("Finding Labels",),
        "follow_up": ("Follow-up #",),
        "patient_id": ("Patient ID",),
        "age": ("Patient Age",),
        "sex": ("Patient Gender", "Patient Sex"),
        "view_position": ("View Position",),
    }
)
"""Our name → the names that headers use: Data_Entry_2017, Data_Entry_2017_v2020, and hospitals that say sex."""

MAX_AGE_YEARS = 123
"""Nobody has lived longer; the 2018 system dropped such ages too."""

AGE_PATTERN = r"^(-?\d+(?:\.\d+)?)([YMWD]?)$"
"""A number and its unit: ``58``, ``058Y``, ``006M``; negative ones are read, to be rejected as out of range."""

UNITS_PER_YEAR: Mapping[str, float] = MappingProxyType({"": 1.0, "Y": 1.0, "M": 12.0, "W": 52.1775, "D": 365.2425})


def find_columns(header: Sequence[str]) -> dict[str, int]:
    """Return the place of each of our columns in a header; letters' case and blanks around names do not matter.

    Raises:
        ValueError: columns that are not there, with all the names they may have.
    """
    actual = [name.strip().lower() for name in header]
    found = {
        ours: next((actual.index(name.lower()) for name in names if name.lower() in actual), -1)
        for ours, names in COLUMNS.items()
    }
    missing = [" or ".join(COLUMNS[ours]) for ours, index in found.items() if index < 0]
    if missing:
        raise ValueError(f"no column {missing}; its header is {list(header)}, expected {expected_header()}")
    return found


def expected_header() -> list[str]:
    """Return the names that a header needs, for error messages."""
    return [" or ".join(names) for names in COLUMNS.values()]
