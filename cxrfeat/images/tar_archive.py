"""Entries of tar archives, plain or as a stream.

The standard library parses each header; the walk is our own, because :mod:`tarfile` takes a damaged header for the end
of the archive, and reads extended headers of any size into memory.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from cxrfeat.images.archive_entries import (
    MAX_OFFSET,
    ArchiveEntry,
    ArchiveError,
    ByteStream,
    check_end,
    check_size,
    read_exactly,
)
from cxrfeat.io.schema import Reason

_BLOCK = tarfile.BLOCKSIZE

_MAX_EXTENDED_HEADER = 1 << 20
"""Largest extended header: names are a few hundred bytes."""

_EXTENDED = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.XGLTYPE,
)
_SPARSE_EXTENDED, _SPARSE_MORE = 482, 504
"""Places of the flags that announce another block of a GNU sparse header."""


class _Header(NamedTuple):
    """Header of one entry: where it starts, where its data start, and what it says."""

    start: int
    data: int
    name: bytes
    size: int
    kind: bytes
    sparse: bool

    @property
    def end(self) -> int:
        has_data = self.kind in tarfile.REGULAR_TYPES or self.kind not in tarfile.SUPPORTED_TYPES
        return self.data + (-(-self.size // _BLOCK) * _BLOCK if has_data or self.sparse else 0)


def read_tar(stream: ByteStream, size: int | None = None) -> Iterator[ArchiveEntry]:
    """Yield the entries of a tar archive that are not folders, in order.

    Args:
        stream: the archive, at its start.
        size: its size in bytes; None for a stream.

    Raises:
        ArchiveError: the archive ends early or has a damaged header; the message says where.
    """
    position = 0
    count = 0
    while (header := _read_header(stream, position, count)) is not None:
        check_end(header.data + header.size if header.end > header.data else 0, size, f"member {header.name!r}")
        count += 1
        if header.kind != tarfile.DIRTYPE:
            yield _to_entry(stream, header)
        position = stream.seek(header.end)


def read_tar_member(stream: ByteStream, offset: int) -> ArchiveEntry:
    """Return the entry whose header is at an offset.

    Raises:
        ArchiveError: no header is there.
    """
    stream.seek(offset)
    header = _read_header(stream, offset, 0)
    if header is None:
        raise ArchiveError(Reason.CORRUPT_ARCHIVE, f"no entry at byte {offset}; the archive has changed")
    return _to_entry(stream, header)


def _to_entry(stream: ByteStream, header: _Header) -> ArchiveEntry:
    problem = check_size(header.size)
    if header.sparse:
        problem = Reason.UNREADABLE, "a sparse file in an archive; expected a plain one"
    elif header.kind not in tarfile.REGULAR_TYPES:
        problem = Reason.UNREADABLE, "a link or a device in an archive; expected a file"
    read = partial(_read_data, stream, header)
    return ArchiveEntry(header.name, header.start, header.size, read, problem)


def _read_data(stream: ByteStream, header: _Header, count: int | None) -> bytes:
    stream.seek(header.data)
    size = header.size if count is None else min(count, header.size)
    return read_exactly(stream, size, f"the data of {header.name.decode(errors='replace')!r} at byte {header.data}")


def _read_header(stream: ByteStream, start: int, number: int) -> _Header | None:
    """Return the header at the stream's position, extended headers included; None at the end of the archive."""
    where = f"header of entry {number} at byte {start}"
    position = start
    name: bytes | None = None
    size: int | None = None
    sparse = False
    while True:
        block = read_exactly(stream, _BLOCK, where)
        position += _BLOCK
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # exported, but not by typeshed
            return None
        except tarfile.HeaderError as error:
            raise ArchiveError(Reason.CORRUPT_ARCHIVE, f"{where}: {error}") from error
        if not 0 <= info.size <= MAX_OFFSET or (info.type in _EXTENDED and info.size > _MAX_EXTENDED_HEADER):
            raise ArchiveError(Reason.CORRUPT_ARCHIVE, f"{where}: impossible size {info.size}")
        if info.type not in _EXTENDED:
            break
        padded = -(-info.size // _BLOCK) * _BLOCK
        content = read_exactly(stream, padded, where)[: info.size]
        position += padded
        if info.type == tarfile.GNUTYPE_LONGNAME:
            name = content.rstrip(b"\0")
        elif info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            fields = _parse_pax(content, where)
            name = fields.get(b"path", name)
            sparse = sparse or any(key.startswith(b"GNU.sparse.") for key in fields)
            size = _parse_size(fields[b"size"], where) if b"size" in fields else size
    if info.type == tarfile.GNUTYPE_SPARSE:
        sparse, more = True, block[_SPARSE_EXTENDED]
        while more:
            position += _BLOCK
            more = read_exactly(stream, _BLOCK, where)[_SPARSE_MORE]
    written = info.name.encode("utf-8", "surrogateescape")
    return _Header(
        start, position, written if name is None else name, info.size if size is None else size, info.type, sparse
    )


def _parse_pax(content: bytes, where: str) -> dict[bytes, bytes]:
    """Return the fields of a pax header: lines of ``LENGTH KEY=VALUE``, whose length counts the whole line."""
    fields = {}
    while content.rstrip(b"\0"):
        digits, _, _ = content.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 10 else 0
        key, separator, value = content[len(digits) + 1 : length].partition(b"=")
        if not separator or length > len(content) or not value.endswith(b"\n"):
            raise ArchiveError(Reason.CORRUPT_ARCHIVE, f"{where}: damaged pax header")
        fields[key] = value[:-1]
        content = content[length:]
    return fields


def _parse_size(text: bytes, where: str) -> int:
    if not text.isdigit() or len(text) > 18 or int(text) > MAX_OFFSET:
        raise ArchiveError(Reason.CORRUPT_ARCHIVE, f"{where}: impossible size {text[:20]!r}")
    return int(text)
