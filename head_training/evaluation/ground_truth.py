"""Labels and metadata to measure against: every line of the metadata CSV counts, or the file is refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa

from cxrfeat.errors import MetadataError
from cxrfeat.io.schema import METADATA
from cxrfeat.labels.columns import MAX_AGE_YEARS
from cxrfeat.labels.findings import parse_findings
from cxrfeat.labels.metadata import parse, read_raw, validate_rows

COLUMNS = ("image_index", "patient_id", "age_years", "sex", "view_position", "findings")

_UNNEEDED = ("follow_up",)

_IGNORED_REASONS = ("follow-up-unreadable", "age-unreadable", "age-out-of-range", "sex-unknown")
"""An image with such a value is measured like any other; the value is null."""


@dataclass(frozen=True)
class GroundTruth:
    """Labels and metadata of images.

    Attributes:
        table: one row an image, :data:`COLUMNS` in the types of :data:`cxrfeat.io.schema.METADATA`.
        ages_unusable: how many ages are null because they can't be read or are outside 0–123 years.
    """

    table: pa.Table
    ages_unusable: int = 0


def read_ground_truth(path: Path) -> GroundTruth:
    """Read a metadata CSV, plain or gzipped.

    Raises:
        ConfigError: no such file.
        MetadataError: a column missing, a line of another width, a label that is missing or unknown, an image without
            patient or twice; the message has the line's number.
    """
    raw = read_raw(str(path), _UNNEEDED)
    parsed = parse(raw)
    _check_lines(path, raw, parsed)
    ages = parsed["age_years"].where(parsed["age_years"].between(0, MAX_AGE_YEARS).fillna(value=False))
    findings = parsed["findings"].map({label: parse_findings(label) for label in parsed["findings"].unique()})
    schema = pa.schema([METADATA.field(name) for name in COLUMNS])
    table = pa.Table.from_pandas(parsed.assign(age_years=ages, findings=findings), schema, preserve_index=False)
    return GroundTruth(table.replace_schema_metadata(), int((raw["age"].notna() & ages.isna()).sum()))


def _check_lines(path: Path, raw: pd.DataFrame, parsed: pd.DataFrame) -> None:
    messages = validate_rows(raw, parsed, _IGNORED_REASONS)["message"]
    messages = messages.mask(messages.isna() & parsed["findings"].isna(), "Finding Labels is empty")
    bad = messages.dropna()
    if len(bad):
        number = raw.loc[bad.index[0], "number"]
        raise MetadataError(f"{path.name}: {len(bad)} lines can't be used; the first is line {number}: {bad.iloc[0]}")
    doubled = parsed.loc[parsed["image_index"].duplicated(), "image_index"].unique()
    if len(doubled):
        raise MetadataError(f"{path.name}: {len(doubled)} images have several lines; the first: {list(doubled[:5])}")
