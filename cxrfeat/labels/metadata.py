"""Parse the metadata CSV in pandas: one row per image, and a rejected row with a reason for every other line.

The rules equal those of :mod:`cxrfeat.spark.metadata_reader`, the reader of the extraction; tests run both on the same
lines. :mod:`head_training.evaluation.ground_truth` builds a stricter reader for evaluation on this one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa

from cxrfeat.errors import MetadataError
from cxrfeat.io import storage
from cxrfeat.io.schema import Split
from cxrfeat.labels import splits
from cxrfeat.labels.columns import AGE_PATTERN, HEADERS, MAX_AGE_YEARS, UNITS_PER_YEAR, find_columns, split_fields
from cxrfeat.labels.findings import FINDINGS, NO_FINDING, SEPARATOR, format_findings

_CONTENT = ("patient_id", "follow_up", "age_years", "sex", "view_position", "findings")
_KEY = ["image_index", *_CONTENT]
_FOLLOW_UP = r"[+-]?\d{1,9}"
_UNKNOWN, _CONTRADICTION = "unknown", "contradiction"


@dataclass(frozen=True)
class Metadata:
    """Content of a metadata file.

    Attributes:
        images: one row per image, with image_index, patient_id, follow_up (Int32), age_years (float32), sex (M, F),
            view_position and findings (``"A|B"`` in canonical order, or No Finding). All columns but the first two may
            have missing values.
        rejected: one row per unused line, with number (the header is line 1), reason, message and line.
        lines: number of lines without header and blank lines, which is the number of images plus rejected lines.
    """

    images: pd.DataFrame
    rejected: pd.DataFrame
    lines: int


def read_metadata(location: str) -> Metadata:
    """Read a metadata CSV, plain or gzipped, from a path or URI; every unused line gets a reason.

    Raises:
        ConfigError: the file does not exist.
        MetadataError: the file is unreadable, has no header, or the header lacks a required column.
    """
    raw = read_raw(location)
    parsed = parse(raw)
    verdicts = _reject_repeats(raw, parsed, validate_rows(raw, parsed))
    rejected = pd.concat([raw[["number"]], verdicts, raw[["line"]]], axis="columns")[verdicts["reason"].notna()]
    images = parsed.loc[verdicts["reason"].isna(), _KEY]
    return Metadata(images.reset_index(drop=True), rejected.reset_index(drop=True), len(raw))


def assign_splits(images: pd.DataFrame, train_val_list: str | None = None, test_list: str | None = None) -> pd.Series:
    """Return the split of each image (train, val or test) with the rules of the extraction.

    With official lists, all images of a patient go to the list that contains one of them. Patients in neither list are
    split by hash; without lists, all patients are.

    Raises:
        ConfigError: one list is given without the other, or a list does not exist.
        MetadataError: a list is empty, or a patient has images in both lists; the message names up to five patients.
    """
    splits.SplitRule(splits.SplitLevel.PATIENT, train_val_list, test_list)  # raises if only one list is given
    listed = {}
    if train_val_list is not None and test_list is not None:
        names = {"train_val": read_list(train_val_list), "test": read_list(test_list)}
        listed = {
            name: set(images.loc[images["image_index"].isin(found), "patient_id"]) for name, found in names.items()
        }
        in_both = sorted(listed["train_val"] & listed["test"])
        if in_both:
            raise MetadataError(
                f"{len(in_both)} patients have images in both {train_val_list} and {test_list}; "
                f"expected each patient in one list only. The first: {', '.join(in_both[:5])}"
            )
    split_of = {patient: _split(patient, listed) for patient in images["patient_id"].unique()}
    return images["patient_id"].map(split_of).rename("split")


def _split(patient: str, listed: Mapping[str, set[str]]) -> str:
    if patient in listed.get("test", ()):
        return Split.TEST.value
    if patient in listed.get("train_val", ()):
        return splits.split_train_val(patient).value
    return splits.split_by_hash(patient).value


def read_list(location: str) -> list[str]:
    """Read image names, one per line, from a path or URI.

    Raises:
        ConfigError: the file does not exist.
        MetadataError: the file is unreadable, has no names, or has duplicate names.
    """
    names = [line.strip() for _, line in _lines(location)]
    if not names:
        raise MetadataError(f"{location} is empty; expected one file name per line")
    unique = len(set(names))
    if unique < len(names):
        raise MetadataError(f"{location} has {len(names)} names, {unique} of them unique; expected no duplicates")
    return names


def _lines(location: str) -> Iterator[tuple[int, str]]:
    """Yield number, starting at 1, and text of all lines of a text file that are not blank."""
    storage.check_file(location)
    filesystem, path = storage.open_filesystem(location)
    try:
        with filesystem.open_input_stream(path, compression="detect") as stream:
            text = bytes(stream.read()).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise MetadataError(f"cannot read {location} as UTF-8 text: {error}") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.removesuffix("\r")


def read_raw(location: str, optional: Collection[str] = ()) -> pd.DataFrame:
    """Return one row per line: number (the header is line 1), line, malformed, and text or None for each column.

    Args:
        location: path or URI, plain or gzipped.
        optional: columns that may be missing from the header.

    Raises:
        ConfigError: the file does not exist.
        MetadataError: the file is unreadable, has no header, or the header lacks a required column.
    """
    lines = _lines(location)
    _, header = next(lines, (0, ""))
    places, width = find_columns(location, header, optional), len(split_fields(header))
    rows = []
    for number, line in lines:
        if line != header:
            fields = split_fields(line)
            malformed = len(fields) != width
            values = [None] * len(places) if malformed else [fields[place].strip() or None for place in places.values()]
            rows.append((number, line, malformed, *values))
    raw = pd.DataFrame(rows, columns=["number", "line", "malformed", *places], dtype=object)
    return raw.reindex(columns=["number", "line", "malformed", *HEADERS]).astype({"malformed": bool})


def parse(raw: pd.DataFrame) -> pd.DataFrame:
    """Return typed columns: unparsable values become missing, and invalid labels become _UNKNOWN or _CONTRADICTION."""
    text = raw.astype(dict.fromkeys(HEADERS, "string"))
    number = text["follow_up"].where(text["follow_up"].str.fullmatch(_FOLLOW_UP, flags=re.ASCII).fillna(value=False))
    age = text["age"].str.extract(AGE_PATTERN, flags=re.ASCII)
    years = pd.to_numeric(age[0]).astype("Float64") / age[1].map(dict(UNITS_PER_YEAR)).astype("Float64")
    sex = text["sex"].str.upper()
    labels = {label: _parse_label(label) for label in raw["findings"].dropna().unique()}
    return pd.DataFrame(
        {
            "image_index": raw["image_index"],
            "patient_id": raw["patient_id"],
            "follow_up": pd.to_numeric(number).astype("Int32"),
            "age_years": years.astype("Float32"),
            "sex": sex.where(sex.isin(["M", "F"])),
            "view_position": raw["view_position"],
            "findings": raw["findings"].map(labels),
        }
    )


def _parse_label(label: str) -> str:
    names = {name.strip() for name in label.split(SEPARATOR)}
    if names.difference(FINDINGS, [NO_FINDING]):
        return _UNKNOWN
    if NO_FINDING in names and len(names) > 1:
        return _CONTRADICTION
    return format_findings(names - {NO_FINDING})


def validate_rows(raw: pd.DataFrame, parsed: pd.DataFrame, ignored_reasons: Collection[str] = ()) -> pd.DataFrame:
    """Return reason and message of the first check that each line fails, or None.

    Args:
        raw: result of :func:`read_raw`.
        parsed: result of :func:`parse`.
        ignored_reasons: reasons whose checks are skipped.
    """
    checks = (
        (raw["malformed"], "malformed", "the number of fields differs from the header's"),
        (raw["image_index"].isna(), "image-index-missing", "Image Index is empty"),
        (raw["patient_id"].isna(), "patient-id-missing", "Patient ID is empty"),
        (
            raw["follow_up"].notna() & parsed["follow_up"].isna(),
            "follow-up-unreadable",
            "follow_up {follow_up!r}; expected a whole number",
        ),
        (
            raw["age"].notna() & parsed["age_years"].isna(),
            "age-unreadable",
            "age {age!r}; expected years, or a number with Y, M, W or D",
        ),
        (
            ~parsed["age_years"].between(0, MAX_AGE_YEARS).fillna(value=True),
            "age-out-of-range",
            f"age {{age!r}} is outside 0–{MAX_AGE_YEARS} years",
        ),
        (raw["sex"].notna() & parsed["sex"].isna(), "sex-unknown", "sex {sex!r}; expected M, F or nothing"),
        (parsed["findings"] == _UNKNOWN, "finding-unknown", "not all among the 14 findings: {findings!r}"),
        (
            parsed["findings"] == _CONTRADICTION,
            "findings-contradict",
            f"findings {{findings!r}} combine {NO_FINDING} with other findings",
        ),
    )
    verdicts = pd.DataFrame(None, index=raw.index, columns=["reason", "message"], dtype=object)
    for fails, reason, message in checks:
        first = fails.astype(bool) & verdicts["reason"].isna() & (reason not in ignored_reasons)
        verdicts.loc[first, "reason"] = reason
        verdicts.loc[first, "message"] = [
            message.format(**row) for row in raw.loc[first, list(HEADERS)].to_dict("records")
        ]
    return verdicts


def _reject_repeats(raw: pd.DataFrame, parsed: pd.DataFrame, verdicts: pd.DataFrame) -> pd.DataFrame:
    """Reject further lines about one image: all but one if they are equal, every one if they differ."""
    valid = pd.concat([parsed[_KEY], raw["line"]], axis="columns")[verdicts["reason"].isna()].sort_values("line")
    repeated = valid.duplicated(_KEY)
    conflicting = valid["image_index"].isin(
        valid.loc[~repeated].loc[lambda rows: rows.duplicated("image_index"), "image_index"]
    )
    for rejected, reason, message in (
        (repeated, "image-index-repeated", "an equivalent line describes this image; one of them is used"),
        (conflicting, "image-index-conflict", "conflicting lines describe this image; none is used"),
    ):
        verdicts.loc[rejected[rejected].index, ["reason", "message"]] = reason, message
    return verdicts
