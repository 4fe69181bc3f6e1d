"""Text of a table: bytes → text → records, each with its line number and unchanged text.

Reads what spreadsheets, databases and data set authors write: RFC 4180 with quoted newlines and doubled quotes, any
line end, gzip, UTF-8 and UTF-16, commas, semicolons or tabs, and trailing cells that a spreadsheet dropped.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from cxrfeat.errors import MetadataError
from cxrfeat.io import storage

MAX_BYTES = 1 << 30
"""Largest accepted text after decompression: about twice the reports of PadChest and the labels of MIMIC-CXR."""

MAX_RECORD_LINES = 200
"""Largest number of lines in one record. A quote that is never closed costs its own line, not the rest of the file."""

_FORMATS = {
    b"PK\x03\x04": "a zip archive or an Excel workbook",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"PAR1": "a Parquet file",
    b"SQLite format 3": "an SQLite database",
    b"%PDF": "a PDF",
}
_BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_DELIMITERS = ",;\t"


@dataclass(frozen=True)
class Records:
    """Records of a table file.

    Attributes:
        location: path or URI of the file.
        header: (W,) names of the columns, trimmed.
        numbers: (R,) number of each record's first line; the first line of the file is 1.
        texts: (R,) unchanged text of each record.
        rows: (R,) W cells; None stands for a cell that the line lacks, a row of None for a malformed record.
    """

    location: str
    header: tuple[str, ...]
    numbers: list[int]
    texts: list[str]
    rows: list[list[str | None] | None]

    def column(self, place: int) -> list[str | None]:
        """Return the (R,) trimmed cells of a column; None for malformed records and cells that the line lacks."""
        cells = [None if row is None else row[place] for row in self.rows]
        return [cell and cell.strip() for cell in cells]


def read_records(location: str) -> Records:
    """Read a table, plain or gzipped, from a path or URI; no line is dropped but blank ones and repeats of the header.

    Raises:
        ConfigError: the file does not exist.
        MetadataError: the file is unreadable, empty, too large, not a text, or has an encoding other than UTF-8 and
            UTF-16.
    """
    lines = split_lines(read_text(location))
    first = next((line for line in lines if line.strip()), None)
    if first is None:
        raise MetadataError(f"{location} is empty; expected a header and one line per image")
    delimiter = max(_DELIMITERS, key=first.count)
    records = _parse(lines, delimiter)
    _, header_text, names = next(records)
    if names is None:
        raise MetadataError(f"{location}: the first line is not a header: {first[:80]}")
    header = tuple(name.replace("\ufeff", "").strip() for name in names)
    numbers, texts, rows = [], [], []
    for number, text, fields in records:
        if text != header_text:
            numbers.append(number)
            texts.append(text)
            rows.append(_fit(fields, len(header)))
    return Records(location, header, numbers, texts, rows)


def read_text(location: str) -> str:
    """Return the text of a file, plain or gzipped, from a path or URI.

    Raises:
        ConfigError, MetadataError: as :func:`read_records`.
    """
    storage.check_file(location)
    try:
        content = storage.read_bytes(location)
        if content[:2] == b"\x1f\x8b":
            with gzip.open(io.BytesIO(content)) as stream:
                content = stream.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        raise MetadataError(f"cannot read {location}: {error}") from error
    if len(content) > MAX_BYTES:
        raise MetadataError(f"{location} has more than {MAX_BYTES:,} bytes of text; expected at most that many")
    for magic, name in _FORMATS.items():
        if content.startswith(magic):
            raise MetadataError(f"{location} is {name}; expected a text table: export it as CSV")
    return _decode(location, content)


def split_lines(text: str) -> list[str]:
    r"""Return the lines of a text without their ends, which are ``\n``, ``\r\n`` or ``\r``."""
    return text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")


def _decode(location: str, content: bytes) -> str:
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{content[error.start]:02x} in line {line} is not {encoding.removesuffix('-sig').upper()}"
        hint = "it may be Latin-1 (Windows-1252): iconv -f WINDOWS-1252 -t UTF-8 converts it"
        raise MetadataError(f"{location}: {found}; expected UTF-8 or UTF-16 with a byte-order mark; {hint}") from error
    if "\x00" in text[:4096]:
        hint = "it may be UTF-16 without a byte-order mark, or a binary file"
        raise MetadataError(f"{location} contains NUL characters; expected a text table; {hint}")
    return text


class _Feed:
    """Iterator over lines that stops after :data:`MAX_RECORD_LINES` lines without a finished record."""

    def __init__(self, lines: Sequence[str], start: int) -> None:
        self.position, self.left = start, MAX_RECORD_LINES
        self._lines = lines

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        if not self.left or self.position == len(self._lines):
            raise StopIteration
        self.left -= 1
        self.position += 1
        return self._lines[self.position - 1] + "\n"


def _parse(lines: Sequence[str], delimiter: str) -> Iterator[tuple[int, str, list[str] | None]]:
    """Yield number, text and fields of every record; the fields are None if a quote is wrong.

    Only the line of the quote is lost, and the reading continues with the next one. A record of several lines with
    another number of fields than the first record has such a quote, too.
    """
    start, width = 0, 0
    while start < len(lines):
        feed = _Feed(lines, start)
        reader = csv.reader(feed, delimiter=delimiter, strict=True)
        while start < len(lines):
            try:
                fields = next(reader, None)
            except csv.Error:  # an open quote, text after a closing one, a field above csv.field_size_limit()
                fields = None
            several = feed.position > start + 1
            if fields is None or (several and width and len(fields) != width):
                yield start + 1, lines[start], None
                start += 1
                break  # a new reader, from the next line
            text = "\n".join(lines[start : feed.position]) if several else lines[start]
            if text.strip():
                width = width or len(fields)
                yield start + 1, text, fields
            start, feed.left = feed.position, MAX_RECORD_LINES


def _fit(fields: list[str] | None, width: int) -> list[str | None] | None:
    """Return exactly ``width`` cells; None if there are more cells, unless the further ones are blank."""
    if fields is None or len(fields) == width:
        return fields  # type: ignore[return-value]
    if len(fields) > width:
        return None if any(field.strip() for field in fields[width:]) else [*fields[:width]]
    return [*fields, *[None] * (width - len(fields))]
