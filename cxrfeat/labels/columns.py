"""Column maps: which columns of a metadata table hold the image, the patient, the age and the labels.

A map names alternatives for each column, because versions of a data set differ. The maps of published data sets are in
:mod:`cxrfeat.labels.dialects`; any other table is described by a TOML file::

    image = "File"                       # required: name or path of the image, with or without suffix
    patient = "PID"
    age = "Age"                          # or birth_year = "Born" with study_date = "Date"
    sex = "Sex"
    view = "Projection"
    follow_up = "Visit"
    split = "Set"                        # train, val or test

    [labels]                             # one of three forms, or none
    column = "Diagnoses"                 # 1. names in one column, divided by a separator or written as a Python list
    separator = ";"                      #    default |
    # flags = ["Mass", "Nodule"]         # 2. a column of 1, 0, -1 (uncertain) or blank for each label; "*" = all others
    # per_line = true                    # 3. with column or flags: an image has several lines
    # merge = "any"                      #    any line, or the majority of the lines with a known value
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from cxrfeat.errors import ConfigError, MetadataError
from cxrfeat.io import storage

ALL_OTHERS = "*"
"""Value of ``flags`` that stands for every column that the map does not name otherwise."""

FIELDS = ("image", "patient", "age", "birth_year", "study_date", "sex", "view", "follow_up", "split")
"""Names of the single columns of a map, in the order of :class:`ColumnMap`."""


class Merge(StrEnum):
    """Rule that merges several lines about one image."""

    ANY = "any"
    MAJORITY = "majority"


@dataclass(frozen=True)
class LabelColumns:
    """Columns that hold the labels; at most one of ``column`` and ``flags`` is set.

    Attributes:
        column: alternatives of the column with the names of the positive labels.
        separator: text between the names in that column.
        flags: column → label, one column for each label; :data:`ALL_OTHERS` alone stands for all other columns.
        per_line: True if an image may have several lines, whose labels are merged.
        merge: rule that merges the lines.
    """

    column: tuple[str, ...] = ()
    separator: str = "|"
    flags: Mapping[str, str] = field(default_factory=dict)
    per_line: bool = False
    merge: Merge = Merge.ANY


@dataclass(frozen=True)
class ColumnMap:
    """Columns of a metadata table, each as a tuple of alternative names; an empty tuple means that there is none.

    Attributes:
        name: name of the dialect, or of the TOML file.
        image: file name or path of the image, with or without suffix.
        patient: identifier that all images of a person share.
        age: age, as :func:`cxrfeat.labels.cells.parse_age` reads it.
        birth_year, study_date: year of birth and date of the study, for tables without an age.
        sex, view, follow_up, split: further columns.
        labels: columns with the labels.
        patient_pattern: regular expression whose first group, found in the image path, is the patient.
    """

    name: str
    image: tuple[str, ...]
    patient: tuple[str, ...] = ()
    age: tuple[str, ...] = ()
    birth_year: tuple[str, ...] = ()
    study_date: tuple[str, ...] = ()
    sex: tuple[str, ...] = ()
    view: tuple[str, ...] = ()
    follow_up: tuple[str, ...] = ()
    split: tuple[str, ...] = ()
    labels: LabelColumns = field(default_factory=LabelColumns)
    patient_pattern: str | None = None

    def find(self, header: Sequence[str], where: str) -> dict[str, str]:
        """Return field → name in the header of every column of the map that the header has.

        Raises:
            MetadataError: the header lacks the image column, or has a column of the map twice.
        """
        found = {}
        for name in FIELDS:
            column = find_column(header, getattr(self, name), where)
            if column is not None:
                found[name] = column
        if "image" not in found:
            expected = " or ".join(self.image)
            raise MetadataError(f"{where} has no column {expected} for the image; its columns are {', '.join(header)}")
        return found


def fold_column(name: str) -> str:
    """Return the name of a column as names are compared: lower case, without surrounding blanks."""
    return name.strip().casefold()


def find_column(header: Sequence[str], names: Sequence[str], where: str) -> str | None:
    """Return the first of several alternative names that is in a header, in the header's spelling; None if none is.

    Raises:
        MetadataError: the header has that column twice.
    """
    for name in names:
        matches = [column for column in header if fold_column(column) == fold_column(name)]
        if len(matches) > 1:
            raise MetadataError(f"{where} has {len(matches)} columns {matches[0]}; expected one")
        if matches:
            return matches[0]
    return None


def load_column_map(location: str) -> ColumnMap:
    """Read a column map from a TOML file; the module's docstring shows one.

    Raises:
        ConfigError: the file does not exist, is not TOML, has unknown keys, values of another type, or no image column.
    """
    storage.check_file(location)
    try:
        values = tomllib.loads(storage.read_bytes(location).decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read the column map {location}: {error}") from error
    _check_keys(location, values, (*FIELDS, "labels", "patient_pattern"))
    if "image" not in values:
        raise ConfigError(f'{location} does not name the image column; expected image = "…"')
    columns = {name: _names(location, name, values[name]) for name in FIELDS if name in values}
    labels = values.get("labels", {})
    if not isinstance(labels, dict):
        raise ConfigError(f"{location}: labels is {labels!r}; expected a table [labels]")
    pattern = values.get("patient_pattern")
    if pattern is not None:
        pattern = _pattern(location, pattern)
    name = location.rpartition("/")[2].removesuffix(".toml")
    return ColumnMap(name, labels=_read_labels(location, labels), patient_pattern=pattern, **columns)


def _read_labels(location: str, values: Mapping[str, Any]) -> LabelColumns:
    _check_keys(f"{location}, [labels]", values, ("column", "separator", "flags", "per_line", "merge"))
    if "column" in values and "flags" in values:
        raise ConfigError(f"{location}: labels have a column and flags; expected one of them")
    separator, per_line = values.get("separator", "|"), values.get("per_line", False)
    if not isinstance(separator, str) or not separator:
        raise ConfigError(f"{location}: separator is {separator!r}; expected a text of at least one character")
    if not isinstance(per_line, bool):
        raise ConfigError(f"{location}: per_line is {per_line!r}; expected true or false")
    merge = values.get("merge", Merge.ANY.value)
    if merge not in list(Merge):
        raise ConfigError(f"{location}: merge is {merge!r}; expected one of {', '.join(Merge)}")
    flags = values.get("flags", {})
    if not isinstance(flags, dict):
        flags = {name: name for name in _names(location, "flags", flags)}
    if not all(isinstance(label, str) and label.strip() for label in flags.values()):
        raise ConfigError(f"{location}: a label of flags is not a text; expected column = label")
    column = _names(location, "column", values["column"]) if "column" in values else ()
    return LabelColumns(column, separator, flags, per_line, Merge(merge))


def _check_keys(where: str, values: Mapping[str, Any], known: Sequence[str]) -> None:
    strangers = sorted(set(values).difference(known))
    if strangers:
        raise ConfigError(f"{where}: unknown keys {', '.join(strangers)}; expected some of {', '.join(known)}")


def _names(location: str, key: str, value: Any) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise ConfigError(f"{location}: {key} is {value!r}; expected the name of a column, or a list of names")
    return tuple(names)


def _pattern(location: str, value: Any) -> str:
    try:
        groups = re.compile(value).groups
    except (TypeError, re.error) as error:
        raise ConfigError(f"{location}: patient_pattern is {value!r}; expected a regular expression") from error
    if groups != 1:
        raise ConfigError(f"{location}: patient_pattern has {groups} groups; expected one, the patient")
    return str(value)
