"""Several tables about the same images, joined by the columns that they share."""

from __future__ import annotations

from collections.abc import Sequence

from cxrfeat.errors import MetadataError
from cxrfeat.labels.columns import find_column, fold_column
from cxrfeat.labels.table_text import Records

Row = list[str | None]


def join_tables(tables: Sequence[Records], image: Sequence[str]) -> Records:
    """Add the columns of further tables to the largest table that has an image column.

    Rows are joined by all columns that two tables share. A row without a partner gets None; a key that occurs in
    several different rows of a further table joins nothing. Malformed rows of all tables are kept.

    Args:
        tables: at least one table.
        image: alternatives of the image column.

    Raises:
        MetadataError: no table has an image column, or a table shares no column with the others.
    """
    if len(tables) == 1:
        return tables[0]
    with_image = [table for table in tables if find_column(table.header, image, table.location) is not None]
    if not with_image:
        names = ", ".join(table.location for table in tables)
        raise MetadataError(f"none of {names} has a column {' or '.join(image)} for the image")
    joined = max(with_image, key=lambda table: len(table.rows))
    base = joined
    remaining = [table for table in tables if table is not base]
    while remaining:
        table = next((table for table in remaining if _shared(joined, table)), None)
        if table is None:
            names = ", ".join(table.location for table in remaining)
            raise MetadataError(f"{names} shares no column with {joined.location}, so that nothing joins them")
        joined = _join(joined, table)
        remaining.remove(table)
    return joined


def _shared(left: Records, right: Records) -> list[str]:
    present = set(map(fold_column, left.header))
    return [name for name in right.header if name and fold_column(name) in present]


def _join(left: Records, right: Records) -> Records:
    shared = _shared(left, right)
    left_places = [[fold_column(name) for name in left.header].index(fold_column(name)) for name in shared]
    right_places = [right.header.index(name) for name in shared]
    added = [place for place, name in enumerate(right.header) if place not in right_places]
    partners: dict[tuple[str | None, ...], Row | None] = {}
    for row in right.rows:
        if row is not None:
            key, values = tuple(row[place] for place in right_places), [row[place] for place in added]
            partners[key] = values if partners.get(key, values) == values else None
    nothing: Row = [None] * len(added)
    rows = [
        None if row is None else row + (partners.get(tuple(row[place] for place in left_places)) or nothing)
        for row in left.rows
    ]
    malformed = [index for index, row in enumerate(right.rows) if row is None]
    return Records(
        location=f"{left.location}, {right.location}",
        header=(*left.header, *(right.header[place] for place in added)),
        numbers=left.numbers + [right.numbers[index] for index in malformed],
        texts=left.texts + [right.texts[index] for index in malformed],
        rows=[*rows, *(None for _ in malformed)],
    )
