"""The metadata CSV of ChestX-ray14: its header and ages, for Spark's reader and for the one here, which needs no JVM.

Both headers load: Data_Entry_2017 (trailing comma, ages as ``058Y``) and Data_Entry_2017_v2020.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from cxrfeat.errors import MetadataError
from cxrfeat.findings import parse_findings
from cxrfeat.inputs import SEX_CODES
from cxrfeat.schema import METADATA

COLUMNS = ("image_index", "patient_id", "age_years", "sex", "view_position", "findings")
"""What is read without Spark."""

MAX_AGE_YEARS = 123
"""Nobody has lived longer; the 2018 system dropped such ages too."""

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

AGE = r"^(-?\d+(?:\.\d+)?)([YMWD]?)$"
UNITS_PER_YEAR: Mapping[str, float] = {"": 1.0, "Y": 1.0, "M": 12.0, "W": 52.1775, "D": 365.2425}


@dataclass(frozen=True)
class Truth:
    """Labels and metadata of images.

    Attributes:
        table: one row an image, :data:`COLUMNS` in the types of :data:`cxrfeat.schema.METADATA`.
        ages_unusable: how many ages are null because they can't be read or are outside 0–123 years.
    """

    table: pa.Table
    ages_unusable: int = 0


def read_truth(path: Path) -> Truth:
    """Read a metadata CSV, plain or gzipped, to measure against: every line counts, or the file is refused.

    Raises:
        MetadataError: no such file, a column missing, a line of another width, a label that is unknown, an image without
            patient or twice.
    """
    types = {header: pa.string() for headers in HEADERS.values() for header in headers}
    try:
        table = csv.read_csv(path, convert_options=csv.ConvertOptions(column_types=types))
    except (OSError, pa.ArrowException) as error:
        raise MetadataError(f"{path.name} can't be read: {error}") from error
    raw = {name: _column(path, table, headers) for name, headers in HEADERS.items() if name != "follow_up"}
    for name in ("image_index", "patient_id"):
        empty = pc.sum(pc.equal(raw[name], "")).as_py()
        if empty:
            raise MetadataError(f"{path.name}: {empty} lines have no {HEADERS[name][0]}")
    _check_unique(path, raw["image_index"])
    typed = {
        "image_index": raw["image_index"],
        "patient_id": raw["patient_id"],
        "age_years": _each(raw["age"], parse_age, pa.float32()),
        "sex": _each(pc.utf8_upper(raw["sex"]), lambda sex: sex if sex in SEX_CODES else None, pa.string()),
        "view_position": _each(raw["view_position"], lambda view: view or None, pa.string()),
        "findings": _findings(path, raw),
    }
    unusable = pc.and_(pc.not_equal(raw["age"], ""), pc.is_null(typed["age_years"]))
    schema = pa.schema([METADATA.field(name) for name in COLUMNS])
    return Truth(pa.table(typed, schema=schema), int(np.count_nonzero(unusable)))


def parse_age(text: str) -> float | None:
    """Return an age in years, from ``58``, ``058Y``, ``006M``, ``003W`` or ``012D``; None where it is none."""
    match = re.match(AGE, text)
    if match is None:
        return None
    years = float(match[1]) / UNITS_PER_YEAR[match[2]]
    return years if 0 <= years <= MAX_AGE_YEARS else None


def _column(path: Path, table: pa.Table, headers: tuple[str, ...]) -> pa.Array:
    """Return a column as trimmed text, without null."""
    header = next((header for header in headers if header in table.column_names), None)
    if header is None:
        raise MetadataError(f"{path.name} has no column {' or '.join(headers)!r}; its header is {table.column_names}")
    return pc.utf8_trim_whitespace(pc.fill_null(table[header].combine_chunks(), ""))


def _each(column: pa.Array, read: Callable[[str], Any], kind: pa.DataType) -> pa.Array:
    """Read every distinct text of a column once."""
    encoded = column.dictionary_encode()
    return pa.array([read(text) for text in encoded.dictionary.to_pylist()], kind).take(encoded.indices)


def _findings(path: Path, raw: Mapping[str, pa.Array]) -> pa.Array:
    def read(label: str) -> list[str]:
        try:
            return parse_findings(label)
        except ValueError as error:
            line = pc.index(raw["findings"], label).as_py()
            raise MetadataError(f"{path.name}, image {raw['image_index'][line]}: {error}") from error

    return _each(raw["findings"], read, METADATA.field("findings").type)


def _check_unique(path: Path, images: pa.Array) -> None:
    counts = pc.value_counts(images)
    doubled = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if len(doubled):
        raise MetadataError(
            f"{path.name}: {len(doubled)} images have several lines; the first: {doubled[:5].to_pylist()}"
        )
