"""Labels of a metadata table: names in one column, or a column of 1, 0, -1 or blank for each label."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from cxrfeat.io.schema import METADATA
from cxrfeat.labels.cells import Cell, parse_column, parse_flag, parse_names
from cxrfeat.labels.columns import ALL_OTHERS, LabelColumns, Merge, find_column
from cxrfeat.labels.table_text import Records

Report = Callable[[str, str, int, str | None], None]
"""Function that counts an unreadable cell: column, reason, line number, text."""

Names = tuple[str, ...]


class LineLabels(NamedTuple):
    """Labels of one line or image: all None if it is unlabelled, the last two if the table names positives alone."""

    positive: Names | None
    unknown: Names | None
    uncertain: Names | None


UNLABELLED = LineLabels(None, None, None)


@dataclass(frozen=True)
class TableLabels:
    """Labels of M images, or lines.

    Attributes:
        rows: (M,) record of each; the first one if several records describe an image.
        texts: (M,) text of its records.
        positive, unknown, uncertain: (M,) lists of names, null where an image is unlabelled.
    """

    rows: list[int]
    texts: list[str]
    positive: pa.Array
    unknown: pa.Array
    uncertain: pa.Array


def read_labels(
    records: Records, labels: LabelColumns, used: set[int], images: Sequence[object], report: Report
) -> TableLabels:
    """Read the labels of a table.

    Args:
        records: the table.
        labels: its label columns.
        used: places of the columns that hold something else.
        images: (R,) image of each record; with ``labels.per_line``, records of one image are merged.
        report: called for every cell that cannot be read.
    """
    column = find_column(records.header, labels.column, records.location)
    flags = _find_flags(records, labels, used)
    if column is not None:
        lines = _read_names(records, column, labels.separator, report)
    elif flags:
        lines = _read_flags(records, flags, report)
    else:
        lines = [UNLABELLED] * len(records.rows)
    rows, texts = list(range(len(lines))), records.texts
    if labels.per_line:
        groups = _group(images)
        rows = [group[0] for group in groups]
        texts = ["\n".join(records.texts[row] for row in group) for group in groups]
        lines = [_merge([lines[row] for row in group], labels.merge) for group in groups]
    kinds = (
        _to_lists([line[place] for line in lines], METADATA.field(name).type)
        for place, name in enumerate(("findings", "findings_unknown", "findings_uncertain"))
    )
    return TableLabels(rows, list(texts), *kinds)


def _to_lists(names: Sequence[Names | None], dtype: pa.DataType) -> pa.Array:
    """Return a column of lists, built from the distinct ones."""
    codes: dict[Names | None, int] = {}
    rows = [codes.setdefault(value, len(codes)) for value in names]
    return pa.array(list(codes), dtype).take(pa.array(rows, pa.int64()))


def _read_names(records: Records, column: str, separator: str, report: Report) -> list[LineLabels]:
    texts = records.column(records.header.index(column))
    parsed = parse_column(texts, functools.partial(parse_names, separator=separator))
    _report(parsed, column, texts, records, report)
    labels = {cell: UNLABELLED if cell.value is None else LineLabels(_names(cell), None, None) for cell in set(parsed)}
    return [labels[cell] for cell in parsed]


def _names(cell: Cell) -> Names:
    return cell.value if isinstance(cell.value, tuple) else ()


def _find_flags(records: Records, labels: LabelColumns, used: set[int]) -> dict[int, str]:
    """Return place → label of the columns with flags."""
    if ALL_OTHERS in labels.flags:
        others = enumerate(records.header)
        return {place: name for place, name in others if name and place not in used and name not in _READERS}
    found: dict[int, str] = {}
    for column, label in labels.flags.items():
        name = find_column(records.header, [column], records.location)
        if name is not None:
            found[records.header.index(name)] = label
    return found


_READERS = ("rad_id", "rad_ID")
"""Columns with the reader of a line, which are never labels."""


def _read_flags(records: Records, flags: Mapping[int, str], report: Report) -> list[LineLabels]:
    values = []
    for place in flags:
        texts = records.column(place)
        parsed = parse_column(texts, parse_flag)
        _report(parsed, records.header[place], texts, records, report)
        # "" is blank, None a cell that the line lacks
        values.append([cell.value or (None if text is None else "") for cell, text in zip(parsed, texts, strict=True)])
    names = tuple(flags.values())

    @functools.cache
    def to_labels(row: tuple[object, ...]) -> LineLabels:
        if all(value is None for value in row):
            return UNLABELLED
        return LineLabels(
            tuple(name for name, value in zip(names, row, strict=True) if value == "1"),
            tuple(name for name, value in zip(names, row, strict=True) if value not in ("1", "0")),
            tuple(name for name, value in zip(names, row, strict=True) if value == "-1"),
        )

    return [to_labels(row) for row in zip(*values, strict=True)]


def _report(parsed: Sequence[Cell], column: str, texts: Sequence[str | None], records: Records, report: Report) -> None:
    for row, cell in enumerate(parsed):
        if cell.reason is not None:
            report(column, cell.reason, records.numbers[row], texts[row])


def _group(images: Sequence[object]) -> list[list[int]]:
    """Return the records of each image, in order of appearance; a record without an image is a group of its own."""
    groups: dict[object, list[int]] = {}
    for row, image in enumerate(images):
        groups.setdefault(("", row) if image is None else image, []).append(row)
    return list(groups.values())


def _merge(lines: Sequence[LineLabels], rule: Merge) -> LineLabels:
    """Return the labels of an image from those of its lines."""
    known = [line for line in lines if line.positive is not None]
    if not known:
        return UNLABELLED
    names = dict.fromkeys(name for line in known for kind in line for name in kind or ())
    positives_alone = all(line.unknown is None for line in known) and rule == Merge.ANY
    if positives_alone:
        return LineLabels(tuple(names), None, None)
    votes = {name: _vote(name, known, rule) for name in names}
    return LineLabels(
        tuple(name for name, vote in votes.items() if vote == "1"),
        tuple(name for name, vote in votes.items() if vote in ("", "-1")),
        tuple(name for name, vote in votes.items() if vote == "-1"),
    )


def _vote(name: str, lines: Sequence[LineLabels], rule: Merge) -> str:
    """Return the merged flag of a name: 1, 0, -1 (uncertain, or a tie) or blank."""
    positive = sum(name in (line.positive or ()) for line in lines)
    uncertain = sum(name in (line.uncertain or ()) for line in lines)
    blank = sum(name in (line.unknown or ()) for line in lines) - uncertain
    negative = len(lines) - positive - uncertain - blank
    if rule == Merge.ANY:
        return "1" if positive else "-1" if uncertain else "0" if negative else ""
    if positive == negative:
        return "-1" if positive or uncertain else ""
    return "1" if positive > negative else "0"
