"""Reader of metadata tables: one row per image, and a rejected row with a reason for every other line.

Extraction, evaluation and report all read through :func:`read_metadata`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from cxrfeat.io.schema import METADATA, METADATA_LINES, Status
from cxrfeat.labels import cells
from cxrfeat.labels.cells import Cell, CellParser
from cxrfeat.labels.columns import ColumnMap, find_column
from cxrfeat.labels.dialects import recognise
from cxrfeat.labels.joined_tables import join_tables
from cxrfeat.labels.label_cells import read_labels
from cxrfeat.labels.table_text import Records, read_records

MAX_EXAMPLES = 3
"""Maximum number of examples per kind of unreadable cell."""

_PARSERS: Mapping[str, CellParser] = {
    "patient": cells.parse_text,
    "age": cells.parse_age,
    "sex": cells.parse_sex,
    "view": cells.parse_text,
    "follow_up": cells.parse_follow_up,
    "split": cells.parse_split,
}
_SOURCES: Mapping[str, str] = {
    **{name: name for name in ("image_index", "follow_up", "sex", "split", "image_path")},
    **{"patient_id": "patient", "age_years": "age", "view_position": "view"},
}
"""Column of the result → name of the column in a map."""

_CONTENT = [name for name in METADATA.names if name != "image_index"]


@dataclass
class CellErrors:
    """Cells that cannot be read, by column and reason.

    Attributes:
        counts: number of cells by column and reason code.
        examples: the first cells of each kind, with their line numbers.
    """

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, column: str, reason: str, number: int, text: str | None) -> None:
        """Count one cell."""
        kind = column, reason
        self.counts[kind] += 1
        if len(self.examples[kind]) < MAX_EXAMPLES:
            self.examples[kind].append(f"{(text or '')[:40]!r} in line {number}")

    def describe(self) -> list[str]:
        """Return one sentence per kind, the most frequent first."""
        return [
            f"{count:,} cells of {column} are {reason}: {', '.join(self.examples[column, reason])}"
            for (column, reason), count in self.counts.most_common()
        ]


@dataclass(frozen=True)
class Metadata:
    """Content of a metadata table.

    Attributes:
        lines: every line, :data:`cxrfeat.io.schema.METADATA_LINES`; ``split`` is that of the table's own column.
        column_map: the map that was used.
        cell_errors: cells that cannot be read and are null.
        numbers: number of each line in its file; the first line is 1.
        has_patients: False if the table names no patients, so that every image counts as a patient of its own.
    """

    lines: pa.Table
    column_map: ColumnMap
    cell_errors: CellErrors
    numbers: Sequence[int]
    has_patients: bool

    def accepted(self) -> pa.Table:
        """Return the lines that passed every check, at most one per image."""
        return self.lines.filter(pc.equal(self.lines["status"], Status.OK.value))

    def rejected(self) -> pa.Table:
        """Return the lines that did not pass, with ``reason``, ``message`` and ``line``."""
        return self.lines.filter(pc.equal(self.lines["status"], Status.REJECTED.value))


def read_metadata(locations: Sequence[str], column_map: ColumnMap | None = None) -> Metadata:
    """Read a metadata table from a path or URI, or several tables that share key columns.

    Args:
        locations: one table, or several, such as the three of MIMIC-CXR-JPG.
        column_map: columns of the table; None recognises a known dialect by its header.

    Raises:
        ConfigError: a file does not exist.
        MetadataError: a file is not a readable text table, its columns are unknown, or it has no image column.
    """
    tables = [read_records(location) for location in locations]
    where = ", ".join(locations)
    header = (
        tuple(dict.fromkeys(name for table in tables for name in table.header)) if len(tables) > 1 else tables[0].header
    )
    column_map = column_map or recognise(header, where)
    return parse_records(join_tables(tables, column_map.image), column_map, where)


def parse_records(records: Records, column_map: ColumnMap, where: str) -> Metadata:
    """Return the metadata in the records of a table.

    Args:
        records: the records.
        column_map: columns of the table.
        where: name of the table for messages.

    Raises:
        MetadataError: the table lacks the image column, or has a column twice.
    """
    found = column_map.find(records.header, where)
    places = {name: records.header.index(column) for name, column in found.items()}
    errors = CellErrors()
    columns = _read_columns(records, column_map, found, errors)
    images = [None if cells.is_missing(text) else text for text in records.column(places["image"])]
    if "patient" not in places:
        columns["patient"] = _find_patients(images, column_map.patient_pattern)
    labels = read_labels(records, column_map.labels, set(places.values()), images, errors.add)
    rows = labels.rows
    needed = [(found[name], places[name]) for name in ("image", "patient") if name in places]
    patients = columns["patient"]
    reasons = [
        None
        if images[row] is not None and patients[row] is not None  # nearly all rows
        else _find_reason(records.rows[row], needed, patients[row])
        for row in rows
    ]
    names, paths = _split_paths(images)
    columns |= {"image_index": list(names), "image_path": list(paths)}
    nothing: list[object] = [None] * len(images)
    table = pa.table(
        {
            **{
                target: pa.array([columns.get(source, nothing)[row] for row in rows], METADATA_LINES.field(target).type)
                for target, source in _SOURCES.items()
            },
            "findings": labels.positive,
            "findings_unknown": labels.unknown,
            "findings_uncertain": labels.uncertain,
            "reason": pa.array([reason and reason[0] for reason in reasons], pa.string()),
            "message": pa.array([reason and reason[1] for reason in reasons], pa.string()),
            "line": pa.array(labels.texts, pa.string()),
        }
    )
    table = _reject_repeats(table)
    status = pc.if_else(pc.is_null(table["reason"]), Status.OK.value, Status.REJECTED.value)
    lines = table.append_column("status", status).select(METADATA_LINES.names).cast(METADATA_LINES)
    has_patients = "patient" in places or column_map.patient_pattern is not None
    return Metadata(lines, column_map, errors, [records.numbers[row] for row in rows], has_patients)


def _read_columns(
    records: Records, column_map: ColumnMap, found: Mapping[str, str], errors: CellErrors
) -> dict[str, list[object]]:
    """Return the (R,) values of each column but the image's; unreadable cells are None and counted."""
    columns: dict[str, list[object]] = {}
    places = {name: records.header.index(column) for name, column in found.items()}
    for name, parse in _PARSERS.items():
        if name in places:
            texts = records.column(places[name])
            for other in getattr(column_map, name):  # further alternatives fill blank cells, as CheXpert's two views do
                column = find_column(records.header, [other], records.location)
                if column not in (None, found[name]):
                    others = records.column(records.header.index(column))
                    texts = [
                        other if cells.is_missing(text) else text for text, other in zip(texts, others, strict=True)
                    ]
            columns[name] = _keep(cells.parse_column(texts, parse), found[name], texts, records, errors)
    if "age" not in places and {"birth_year", "study_date"} <= set(places):
        born, studied = records.column(places["birth_year"]), records.column(places["study_date"])
        ages = [cells.age_between(year, date) for year, date in zip(born, studied, strict=True)]
        columns["age"] = _keep(ages, found["birth_year"], born, records, errors)
    return columns


def _keep(
    parsed: Sequence[Cell], column: str, texts: Sequence[str | None], records: Records, errors: CellErrors
) -> list[object]:
    """Return the values, and count the cells with a reason."""
    for row in [row for row, cell in enumerate(parsed) if cell.reason is not None]:
        errors.add(column, str(parsed[row].reason), records.numbers[row], texts[row])
    return [cell.value for cell in parsed]


def _find_patients(images: Sequence[object], pattern: str | None) -> list[object]:
    """Return the patient in each image path; without a pattern, every image is a patient of its own."""
    if pattern is None:
        return list(images)
    found = [re.search(pattern, image) if isinstance(image, str) else None for image in images]
    return [match and match[1] for match in found]


def _split_paths(images: Sequence[object]) -> tuple[list[str | None], list[str | None]]:
    """Return the file name of each image, and its path; paths are None unless the table has any folder."""
    paths = [normalise_path(image) if isinstance(image, str) else None for image in images]
    names = [path and path.rpartition("/")[2] for path in paths]
    has_folders = any(path is not None and "/" in path for path in paths)
    return names, paths if has_folders else [None] * len(paths)


def normalise_path(path: str) -> str:
    r"""Return a path with forward slashes, without a leading ``/`` or ``./``.

    Example:
        >>> normalise_path("./train\\a.png"), normalise_path("/data/a.png")
        ('train/a.png', 'data/a.png')
    """
    if path[:1] not in "./" and "\\" not in path and "//" not in path:  # nearly all paths: saves two substitutions
        return path
    return re.sub(r"^(?:\.?/)+", "", re.sub(r"[\\/]+", "/", path.strip()))


def _find_reason(
    cells_of_row: Sequence[str | None] | None, needed: Sequence[tuple[str, int]], patient: object
) -> tuple[str, str] | None:
    """Return reason and message of a row that cannot be used, or None.

    Args:
        cells_of_row: its cells; None for a malformed record.
        needed: name and place of the image column and, if the table has one, of the patient column.
        patient: the patient that was found.
    """
    if cells_of_row is None or any(cells_of_row[place] is None for _, place in needed):
        return "malformed", "the number of fields differs from the header's"
    for (name, place), reason in zip(needed, ("image-index-missing", "patient-id-missing"), strict=False):
        if cells.is_missing(cells_of_row[place]):
            return reason, f"{name} is empty"
    return None if patient is not None else ("patient-id-missing", "the image path names no patient")


def _agree(values: Sequence[object]) -> bool:
    """Return True if all values that are not missing are equal."""
    known = [value for value in values if value is not None]
    return all(value == known[0] for value in known)


def _reject_repeats(table: pa.Table) -> pa.Table:
    """Reject further lines about one image: all but the most complete if they agree, every one if they contradict."""
    keys = pc.coalesce(table["image_path"], table["image_index"]).to_pylist()
    if len(set(keys)) == len(keys):
        return table
    reasons, messages = table["reason"].to_pylist(), table["message"].to_pylist()
    groups: dict[str, list[int]] = {}
    repeated: set[str] = set()
    for row, key in enumerate(keys):
        if reasons[row] is None:
            group = groups.setdefault(key, [])
            group.append(row)
            if len(group) > 1:
                repeated.add(key)
    for key in repeated:
        rows = groups[key]
        contents = table.select(_CONTENT).take(rows)
        if all(_agree(column.to_pylist()) for column in contents.columns):
            verdict = "image-index-repeated", "an equivalent line describes this image; one of them is used"
            missing = [sum(value is None for value in content.values()) for content in contents.to_pylist()]
            lines = table["line"].take(rows).to_pylist()
            kept = min(range(len(rows)), key=lambda place: (missing[place], lines[place]))
            rows = rows[:kept] + rows[kept + 1 :]
        else:
            verdict = "image-index-conflict", "conflicting lines describe this image; none is used"
        for row in rows:
            reasons[row], messages[row] = verdict
    for name, values in (("reason", reasons), ("message", messages)):
        table = table.set_column(table.column_names.index(name), name, pa.array(values, pa.string()))
    return table
