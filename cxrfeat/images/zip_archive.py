"""Entries of zip archives: by their index, or, where the archive is cut off, one after the other.

The standard library reads the index. Members are read here, so that a worker needs no index, and a member that is
larger than it declares costs no memory.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from typing import IO, NamedTuple, cast

from cxrfeat.errors import ImageError
from cxrfeat.images.archive_entries import (
    MAX_MEMBER_BYTES,
    ArchiveEntry,
    ArchiveError,
    ByteStream,
    check_end,
    check_size,
    read_exactly,
)
from cxrfeat.io.schema import Reason

_LOCAL = struct.Struct("<4s5H3I2H")
"""Local header: signature, version, flags, method, time, date, CRC, two sizes, lengths of name and extra field."""

_LOCAL_SIGNATURE, _CENTRAL_SIGNATURE, _DESCRIPTOR_SIGNATURE = b"PK\x03\x04", b"PK\x01\x02", b"PK\x07\x08"
_END_SIGNATURES = (_CENTRAL_SIGNATURE, b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"PK\x06\x08")
_ENCRYPTED, _SIZES_FOLLOW, _UTF8 = 0x1, 0x8, 0x800
_UNKNOWN_SIZE = 0xFFFFFFFF
_MAX_INDEX_BYTES = 64 * 1024**2
"""Largest index: about half a million names."""

_CHUNK = 1 << 20
_START = 4096
"""Compressed bytes that are read for the first bytes of a member."""


class _Local(NamedTuple):
    """Header of a member, and the place of its data; 0 if only the index was read."""

    name: bytes
    flags: int
    method: int
    crc: int
    stored: int
    size: int
    data: int = 0


def read_zip(stream: IO[bytes], size: int) -> Iterator[ArchiveEntry]:
    """Yield the members of a zip archive of ``size`` bytes that are not folders.

    Raises:
        ArchiveError: the index or a member's header is damaged or missing; the message says where.
    """
    try:
        declared = _check_index(stream, size)
        infos = zipfile.ZipFile(stream).infolist()
        stream.seek(0)
        has_members = stream.read(4) == _LOCAL_SIGNATURE
        # The library believes the size of the index, whatever number of members it declares.
        if len(infos) != declared or (has_members and not infos):
            raise zipfile.BadZipFile(f"the index has {len(infos)} members and declares {declared}")  # noqa: TRY301
    except zipfile.BadZipFile as error:
        yield from _scan(stream, size, str(error))
        return
    except (NotImplementedError, ValueError, struct.error, zlib.error, OverflowError) as error:
        raise ArchiveError(Reason.CORRUPT_ARCHIVE, f"the index cannot be read: {error}") from error
    for info in infos:
        name = info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8 else "cp437", "replace")
        if not info.is_dir():
            local = _Local(name, info.flag_bits, info.compress_type, info.CRC, info.compress_size, info.file_size)
            entry = _to_entry(stream, info.header_offset, local)
            if not 0 <= info.header_offset <= info.header_offset + info.compress_size <= size:
                place = f"{info.compress_size} bytes at byte {info.header_offset} of {size}"
                entry = entry._replace(offset=0, length=0, problem=(Reason.CORRUPT, f"impossible place: {place}"))
            yield entry


def read_zip_member(stream: ByteStream, offset: int, length: int) -> ArchiveEntry:
    """Return the member whose local header is at an offset and whose data have ``length`` bytes in the archive.

    Raises:
        ArchiveError: no header is there.
    """
    return _to_entry(stream, offset, _read_local(stream, offset)._replace(stored=length, size=0))


def _to_entry(stream: ByteStream, offset: int, local: _Local) -> ArchiveEntry:
    problem = check_size(max(local.size, local.stored))
    if local.flags & _ENCRYPTED:
        problem = Reason.ENCRYPTED, "an encrypted member; expected one without a password"
    elif local.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        problem = Reason.UNREADABLE, f"compression method {local.method}; expected 0 (stored) or 8 (deflated)"
    read = partial(_read_data, stream, offset, local.stored)
    return ArchiveEntry(local.name.replace(b"\\", b"/"), offset, local.stored, read, problem)


def _read_local(stream: ByteStream, offset: int) -> _Local:
    where = f"member at byte {offset}"
    stream.seek(offset)
    header = _LOCAL.unpack(read_exactly(stream, _LOCAL.size, where))
    signature, _, flags, method, _, _, crc, stored, size, name_length, extra_length = header
    if signature != _LOCAL_SIGNATURE:
        raise ArchiveError(Reason.CORRUPT_ARCHIVE, f"{where} starts with {signature!r}; expected {_LOCAL_SIGNATURE!r}")
    name = read_exactly(stream, name_length, where)
    extra = read_exactly(stream, extra_length, where)
    if _UNKNOWN_SIZE in (stored, size):
        stored, size = _read_long_sizes(extra, stored, size)
    return _Local(name, flags, method, crc, stored, size, offset + _LOCAL.size + name_length + extra_length)


def _read_long_sizes(extra: bytes, stored: int, size: int) -> tuple[int, int]:
    """Return the sizes in the Zip64 extra field, where the header has none."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        if kind == 1 and length >= 16:
            size, stored = struct.unpack_from("<QQ", extra, 4)
            return stored, size
        extra = extra[4 + length :]
    return stored, size


def _read_data(stream: ByteStream, offset: int, stored: int, count: int | None) -> bytes:
    """Return the contents of a member, checked against its size and CRC, or its first bytes."""
    local = _read_local(stream, offset)
    stream.seek(local.data)
    where = f"member at byte {offset}"
    if local.method == zipfile.ZIP_STORED:
        data = read_exactly(stream, stored if count is None else min(count, stored), where)
    else:
        data = _inflate(read_exactly(stream, stored if count is None else min(_START, stored), where), count)
    if count is None:
        crc = _read_descriptor(stream) if local.flags & _SIZES_FOLLOW else local.crc
        if crc != zlib.crc32(data):
            raise ImageError(Reason.CORRUPT, f"wrong CRC of the member: {zlib.crc32(data):08x}; expected {crc:08x}")
    return data


def _inflate(data: bytes, count: int | None) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(data, MAX_MEMBER_BYTES + 1 if count is None else count)
    except zlib.error as error:
        raise ImageError(Reason.CORRUPT, f"the member cannot be decompressed: {error}") from error
    if count is None and len(inflated) > MAX_MEMBER_BYTES:
        raise ImageError(Reason.TOO_LARGE, f"member of more than {MAX_MEMBER_BYTES} bytes")
    if count is None and not inflater.eof:
        raise ImageError(Reason.CORRUPT, "the compressed data of the member end early")
    return inflated


def _read_descriptor(stream: ByteStream) -> int:
    """Return the CRC that follows the data of a member, with or without a signature."""
    head = read_exactly(stream, 8, "data descriptor")
    return int.from_bytes(head[4:] if head.startswith(_DESCRIPTOR_SIGNATURE) else head[:4], "little")


def _check_index(stream: IO[bytes], size: int) -> int:
    """Check the size of the index before the standard library reads it into memory, and return its number of members.

    Raises:
        BadZipFile: the archive has no index.
        ArchiveError: the index is too large.
    """
    end = zipfile._EndRecData(stream)  # type: ignore[attr-defined]  # private, but 20 years old; a test holds it
    if not end:
        raise zipfile.BadZipFile("the archive has no index at its end")
    index_bytes = cast("int", end[zipfile._ECD_SIZE])  # type: ignore[attr-defined]
    if index_bytes > min(_MAX_INDEX_BYTES, size):
        raise ArchiveError(Reason.CORRUPT_ARCHIVE, f"index of {index_bytes} bytes; the limit is {_MAX_INDEX_BYTES}")
    return cast("int", end[zipfile._ECD_ENTRIES_TOTAL])  # type: ignore[attr-defined]


def _scan(stream: ByteStream, size: int, problem: str) -> Iterator[ArchiveEntry]:
    """Yield the members of an archive without an index, one after the other, and end with an error.

    Raises:
        ArchiveError: always: where the archive ends, or what is there instead of a member.
    """
    offset = count = 0
    while True:
        stream.seek(offset)
        signature = stream.read(4)
        if len(signature) < 4 or signature in _END_SIGNATURES:
            reason = Reason.TRUNCATED_ARCHIVE if count else Reason.CORRUPT_ARCHIVE
            raise ArchiveError(reason, f"{problem}; {count} members were found before byte {offset}")
        try:
            local = _read_local(stream, offset)
            stored = local.stored
            if local.flags & _SIZES_FOLLOW and not stored and local.method == zipfile.ZIP_DEFLATED:
                stored = _measure(stream, local.data)
            check_end(local.data + stored, size, f"the member at byte {offset}")
        except ArchiveError as error:
            raise ArchiveError(error.reason, f"{problem}; after {count} members: {error}") from error
        if not local.name.endswith(b"/"):
            yield _to_entry(stream, offset, local._replace(stored=stored))
        count += 1
        offset = local.data + stored
        if local.flags & _SIZES_FOLLOW:
            offset += _descriptor_length(stream, offset)


def _measure(stream: ByteStream, offset: int) -> int:
    """Return the number of bytes of a deflated member that does not declare it."""
    stream.seek(offset)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    read = produced = 0
    try:
        while not inflater.eof:
            chunk = inflater.unconsumed_tail
            if not chunk:
                chunk = read_exactly(stream, 1, f"compressed data at byte {offset}") + stream.read(_CHUNK)
                read += len(chunk)
            produced += len(inflater.decompress(chunk, _CHUNK))
            if produced > MAX_MEMBER_BYTES:
                raise ArchiveError(Reason.TOO_LARGE, f"member at byte {offset} of more than {MAX_MEMBER_BYTES} bytes")
    except zlib.error as error:
        raise ArchiveError(Reason.CORRUPT_ARCHIVE, f"compressed data at byte {offset}: {error}") from error
    return read - len(inflater.unused_data)


def _descriptor_length(stream: ByteStream, offset: int) -> int:
    """Return the length of a data descriptor: the next member or the index follows it."""
    stream.seek(offset)
    block = stream.read(28)
    for length in (16, 12, 24, 20):
        if block[length : length + 4] in (_LOCAL_SIGNATURE, *_END_SIGNATURES):
            return length
    return 16
