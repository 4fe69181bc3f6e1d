"""Parsers of single cells. A cell that cannot be read is missing, with a reason, and never costs its line."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cxrfeat.io.schema import Split
from cxrfeat.labels.findings import FINDINGS, NO_FINDING

MAX_AGE_YEARS = 123
"""Highest accepted age, about the longest documented human life. The 2018 system also dropped higher ages."""

_MISSING = frozenset(("", "nan", "none", "na", "n/a", "#n/a", "null", "<na>", "nat"))
_UNITS_PER_YEAR = {"": 1.0, "y": 1.0, "m": 12.0, "w": 52.1775, "d": 365.2425}
_AGE = re.compile(
    r"[>≥]?=?\s*([+-]?\d{1,9}(?:[.,]\d{0,20})?)\s*\+?\s*"
    r"(y|yr|yrs|years?|m|mo|months?|w|weeks?|d|days?|)(?:\s*old)?",
    re.ASCII | re.IGNORECASE,
)
_WHOLE = re.compile(r"([+-]?\d{1,9})(?:\.0*)?", re.ASCII)
_YEAR = re.compile(r"(1[89]\d\d|20\d\d)(?:\.0*)?", re.ASCII)
_DATE = re.compile(r"(1[89]\d\d|20\d\d)[-/.]?(0[1-9]|1[0-2])[-/.]?(0[1-9]|[12]\d|3[01])(?:\D.*|\.0*)?", re.ASCII)
_SEXES = {"m": "M", "male": "M", "f": "F", "female": "F"}
_NO_SEX = frozenset(("o", "other", "u", "unknown", "unspecified", "not specified"))
_SPLITS = {
    **dict.fromkeys(("train", "training"), Split.TRAIN),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev"), Split.VAL),
    **dict.fromkeys(("test", "testing"), Split.TEST),
}
_FLAGS = {
    **dict.fromkeys(("1", "1.0", "true", "yes", "t", "y"), "1"),
    **dict.fromkeys(("0", "0.0", "false", "no", "f", "n"), "0"),
    **dict.fromkeys(("-1", "-1.0"), "-1"),
}
_MAX_LIST_CHARACTERS = 100_000
_ORDER = {name: place for place, name in enumerate(FINDINGS)}


class Cell(NamedTuple):
    """Value of a cell, None if it is missing or unreadable, and the reason code of an unreadable one."""

    value: object
    reason: str | None = None


MISSING = Cell(None)

CellParser = Callable[[str], Cell]
"""Function from a cell's text, which is not missing, to its value."""


def is_missing(text: str | None) -> bool:
    """Return True for blank cells and for the words that programs write for a missing value: nan, None, NA, null."""
    return text is None or text.strip().lower() in _MISSING


def parse_column(texts: Sequence[str | None], parse: CellParser) -> list[Cell]:
    """Return the (N,) parsed cells of a column; equal texts are parsed once."""
    cells: dict[str | None, Cell] = {text: MISSING if is_missing(text) else parse(text or "") for text in set(texts)}
    return [cells[text] for text in texts]


def parse_text(text: str) -> Cell:
    """Return the trimmed text."""
    return Cell(text.strip())


def parse_age(text: str) -> Cell:
    """Return an age in years, 0 to 123.

    Example:
        >>> [parse_age(text).value for text in ("58", "058Y", "006M", "58.0", "90+", "411")]
        [58.0, 58.0, 0.5, 58.0, 90.0, None]
        >>> parse_age("411").reason
        'age-out-of-range'
    """
    found = _AGE.fullmatch(text.strip())
    if found is None:
        return Cell(None, "age-unreadable")
    years = float(found[1].replace(",", ".")) / _UNITS_PER_YEAR[found[2][:1].lower()]
    return Cell(years) if 0 <= years <= MAX_AGE_YEARS else Cell(None, "age-out-of-range")


def age_between(birth_year: str | None, study_date: str | None) -> Cell:
    """Return the age in whole years on the date of a study (``YYYYMMDD`` or ``YYYY-MM-DD``), from the year of birth."""
    if is_missing(birth_year) or is_missing(study_date):
        return MISSING
    born, studied = _YEAR.fullmatch((birth_year or "").strip()), _DATE.fullmatch((study_date or "").strip())
    if born is None or studied is None:
        return Cell(None, "age-unreadable")
    years = int(studied[1]) - int(born[1])
    return Cell(float(years)) if 0 <= years <= MAX_AGE_YEARS else Cell(None, "age-out-of-range")


def parse_sex(text: str) -> Cell:
    """Return ``M`` or ``F``; other and unknown are missing without a reason."""
    word = text.strip().lower()
    if word in _NO_SEX:
        return MISSING
    return Cell(_SEXES[word]) if word in _SEXES else Cell(None, "sex-unknown")


def parse_follow_up(text: str) -> Cell:
    """Return a whole number: ``3``, ``3.0``."""
    found = _WHOLE.fullmatch(text.strip())
    return Cell(int(found[1])) if found else Cell(None, "follow-up-unreadable")


def parse_split(text: str) -> Cell:
    """Return ``train``, ``val`` or ``test``; ``valid``, ``validate`` and ``training`` are understood."""
    split = _SPLITS.get(text.strip().lower())
    return Cell(split.value) if split else Cell(None, "split-unknown")


def parse_flag(text: str) -> Cell:
    """Return ``1``, ``0`` or, for an uncertain label, ``-1``."""
    flag = _FLAGS.get(text.strip().lower())
    return Cell(flag) if flag else Cell(None, "flag-unreadable")


def parse_names(text: str, separator: str) -> Cell:
    """Return the tuple of label names of a cell such as ``A|B`` or ``['A', 'B']``; ``No Finding`` alone gives ``()``.

    Names keep their spelling. NIH's findings come first, in the order of the paper, then the others in the order of the
    cell; repeats are dropped. ``No Finding`` beside other names is dropped, with the reason ``findings-contradict``.
    """
    stripped = text.strip()
    parts: Sequence[str] = stripped.split(separator)
    if stripped.startswith("[") and stripped.endswith("]"):
        listed = _parse_list(stripped)
        if listed is None:
            return Cell(None, "labels-unreadable")
        parts = listed
    names = dict.fromkeys(part.strip() for part in parts if not is_missing(part))
    kept = [name for name in names if name.casefold().replace("_", " ") != NO_FINDING.casefold()]
    contradiction = len(names) > len(kept) > 0
    if not names:
        return MISSING
    ordered = sorted(kept, key=lambda name: _ORDER.get(name, len(_ORDER)))
    return Cell(tuple(ordered), "findings-contradict" if contradiction else None)


def _parse_list(text: str) -> list[str] | None:
    """Return the strings of a Python list, or None."""
    if len(text) > _MAX_LIST_CHARACTERS:
        return None
    try:
        values = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    return values if isinstance(values, list) and all(isinstance(value, str) for value in values) else None
