"""Labels and metadata to evaluate against. One unusable line in the metadata CSV rejects the whole file."""

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

_OPTIONAL = ("follow_up",)

_IGNORED_REASONS = ("follow-up-unreadable", "age-unreadable", "age-out-of-range", "sex-unknown")
"""Reasons that do not reject a line; the value becomes null and the image is evaluated."""

MAX_NAMED = 5
"""Maximum number of images named in an error message."""


@dataclass(frozen=True)
class GroundTruth:
    """Labels and metadata of images.

    Attributes:
        table: one row per image, :data:`COLUMNS` with the types of :data:`cxrfeat.io.schema.METADATA`.
        ages_unusable: number of ages set to null because they are unreadable or outside 0–123 years.
    """

    table: pa.Table
    ages_unusable: int = 0


def read_ground_truth(path: Path) -> GroundTruth:
    """Read a metadata CSV, plain or gzipped.

    Raises:
        ConfigError: the file does not exist.
        MetadataError: a missing column, a line with another number of fields, a missing or unknown label, an image
            without a patient or on several lines; the message has the line number.
    """
    raw = read_raw(str(path), _OPTIONAL)
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
    invalid = messages.dropna()
    if len(invalid):
        number = raw.loc[invalid.index[0], "number"]
        raise MetadataError(
            f"{path.name}: {len(invalid)} lines are unusable; the first is line {number}: {invalid.iloc[0]}"
        )
    repeated = parsed.loc[parsed["image_index"].duplicated(), "image_index"].unique()
    if len(repeated):
        names = ", ".join(repeated[:MAX_NAMED])
        raise MetadataError(f"{path.name}: {len(repeated)} images have several lines; the first: {names}")
