"""Images in containers: tar, zip and TFRecord files with an index, gzipped ones as streams.

A member's key is the path of its container and its name, as if the container were a folder. Which members are images,
which are skipped, and which are quarantined is decided here, by the same rules for all formats and for both ways of
reading: see docs/ARCHIVES.md.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, NamedTuple, cast

from cxrfeat.errors import ImageError
from cxrfeat.images.archive_entries import MAX_MEMBERS, ArchiveEntry, ArchiveError, ByteStream, to_key
from cxrfeat.images.candidates import DICOM_START, Candidate, classify
from cxrfeat.images.dicom import is_dicom
from cxrfeat.images.tar_archive import read_tar, read_tar_member
from cxrfeat.images.tfrecord import RECORD_HEAD_BYTES, find_image, parse_example, read_tfrecord, read_tfrecords
from cxrfeat.images.zip_archive import read_zip, read_zip_member
from cxrfeat.io import storage
from cxrfeat.io.container_names import ContainerKind, kind_of
from cxrfeat.io.listing import is_hidden, suffix_of
from cxrfeat.io.refs import ImageRef
from cxrfeat.io.schema import Reason
from cxrfeat.io.skipped import HIDDEN, Skipped

_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20
_MAX_PADDING = 64 * _CHUNK
"""Bytes after the end of a tar archive that are read to check the sum of a gzip stream."""


_NOT_READ = (".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".7z", ".rar")
"""Suffixes of other archives, which are refused as members as well."""


@dataclass
class ContainerListing:
    """Contents of a container.

    Attributes:
        items: its images in their order, and what is quarantined; or the container itself, if it has no index.
        skipped: members that are not images.
    """

    items: list[ImageRef] = field(default_factory=list)
    skipped: Skipped = field(default_factory=Skipped)


class FoundMember(NamedTuple):
    """One member of a container.

    Attributes:
        item: reference to the image; None for a member that is not one.
        key: name of the member as a key.
        entry: the entry of the container.
        skipped_as: kind of a member that is not an image; None for its suffix.
    """

    item: ImageRef | None
    key: str
    entry: ArchiveEntry
    skipped_as: str | None = None


def index_container(root: str, path: str) -> ContainerListing:
    """List the images of a container; a gzipped one, which has no index, is an image reference of its own.

    Raises:
        OSError: the error is not caused by the file itself.
    """
    listing = ContainerListing()
    try:
        with storage.open_stream(storage.locate(root, path)) as stream:
            size = stream.seek(0, io.SEEK_END)
            stream.seek(0)
            start = stream.read(len(_GZIP_MAGIC))
            stream.seek(0)
            if start == _GZIP_MAGIC:
                listing.items.append(ImageRef(path, length=size))
                return listing
            for found in _find_members(path, _entries(path, stream, size)):
                if found.item is not None:
                    listing.items.append(found.item)
                else:
                    listing.skipped.add(f"{path}/{found.key}", found.skipped_as)
    except (ArchiveError, OSError) as error:
        listing.items.append(_fault(path, error))
    return listing


def stream_container(root: str, path: str, skipped: Skipped) -> Iterator[tuple[ImageRef, bytes | ImageError | None]]:
    """Yield the images of a container with their bytes, in one pass.

    Args:
        root: qualified images root.
        path: path of the container.
        skipped: counts of members that are not images; they are complete when the iterator ends.

    Yields:
        The image and its bytes, or the error of its data, or None if the image has a reason.

    Raises:
        OSError: the error is not caused by the file itself.
    """
    try:
        with storage.open_stream(storage.locate(root, path), _CHUNK) as file:
            start = file.read(len(_GZIP_MAGIC))
            file.seek(0)
            stream = cast("ByteStream", gzip.GzipFile(fileobj=file) if start == _GZIP_MAGIC else file)
            entries = (entry._replace(read=_ReadOnce(entry.read)) for entry in _entries(path, stream, None))
            for found in _find_members(path, entries):
                if found.item is None:
                    skipped.add(f"{path}/{found.key}", found.skipped_as)
                elif found.item.reason is not None:
                    yield found.item, None
                else:
                    yield found.item._replace(offset=None), _read_or_error(found.entry)
            for _ in range(_MAX_PADDING // _CHUNK):
                if not stream.read(_CHUNK):
                    break
    except (ArchiveError, OSError, EOFError, zlib.error) as error:
        yield _fault(path, error), None


def read_member(root: str, item: ImageRef, image_feature: str | None) -> bytes:
    """Return the bytes of the image in a member of a container with an index.

    Raises:
        ImageError: the member is damaged, or the container has changed since it was listed.
        OSError: the error is not caused by the file itself.
    """
    assert item.offset is not None  # noqa: S101
    assert item.member is not None  # noqa: S101
    kind = kind_of(item.path)
    with storage.open_stream(storage.locate(root, item.path)) as stream:
        if kind == ContainerKind.ZIP:
            entry = read_zip_member(stream, item.offset, item.length or 0)
        elif kind == ContainerKind.TFRECORD:
            entry = read_tfrecord(stream, int(item.member), item.offset)
        else:
            entry = read_tar_member(stream, item.offset)
        if to_key(entry.name) != item.member:
            found = f"{to_key(entry.name)!r} at byte {item.offset}"
            raise ImageError(Reason.CORRUPT_ARCHIVE, f"{found}; expected {item.member!r}: the archive has changed")
        if entry.problem is not None:
            raise ImageError(*entry.problem)
        return unwrap(item.path, entry.read(None), image_feature)


def unwrap(path: str, data: bytes, image_feature: str | None) -> bytes:
    """Return the image in the bytes of a member: of a TFRecord the image feature, of all others the bytes themselves.

    Raises:
        ImageError: the record has no image.
    """
    if kind_of(path) != ContainerKind.TFRECORD:
        return data
    return find_image(data, parse_example(io.BytesIO(data), 0, len(data)), image_feature)


class _ReadOnce:
    """Contents of an entry of a stream, which cannot be read again."""

    def __init__(self, read: Callable[[int | None], bytes]) -> None:
        self._read = read
        self._data: bytes | None = None

    def __call__(self, count: int | None) -> bytes:
        if self._data is None:
            self._data = self._read(None)
        return self._data[:count]


def _entries(path: str, stream: ByteStream, size: int | None) -> Iterator[ArchiveEntry]:
    """Return the entries of a container of ``size`` bytes, or of a stream."""
    kind = kind_of(path)
    if size == 0:
        raise ArchiveError(Reason.EMPTY, "the archive is empty")
    if kind == ContainerKind.TFRECORD:
        return read_tfrecords(stream, size)
    if kind == ContainerKind.ZIP and size is not None:
        return read_zip(cast("IO[bytes]", stream), size)
    return read_tar(stream, size)


def _read_or_error(entry: ArchiveEntry) -> bytes | ImageError:
    try:
        return entry.read(None)
    except ArchiveError:
        raise
    except ImageError as error:
        return error
    except EOFError as error:
        raise ArchiveError(Reason.TRUNCATED_ARCHIVE, f"member {to_key(entry.name)!r}: {error}") from error


def _fault(path: str, error: Exception) -> ImageRef:
    """Return the quarantined item of a container that cannot be read beyond some point.

    Raises:
        OSError: the error is not caused by the file itself.
    """
    if isinstance(error, ArchiveError):
        return ImageRef(path, reason=error.reason, message=str(error))
    if isinstance(error, EOFError):
        return ImageRef(path, reason=Reason.TRUNCATED_ARCHIVE, message=f"the gzip stream ends early: {error}")
    if isinstance(error, zlib.error | gzip.BadGzipFile):
        return ImageRef(path, reason=Reason.CORRUPT_ARCHIVE, message=f"the gzip stream is damaged: {error}")
    reason = storage.quarantine_reason(error) if isinstance(error, OSError) else None
    if reason is None:
        raise error
    return ImageRef(path, reason=reason, message=str(error))


def _find_members(path: str, entries: Iterator[ArchiveEntry]) -> Iterator[FoundMember]:
    """Yield what each entry is: an image, something to quarantine, or something to skip.

    Args:
        path: path of the container.
        entries: its entries.

    Raises:
        ArchiveError: the container is damaged; the message also says how many members were read.
    """
    seen: set[str] = set()
    count = 0
    records = kind_of(path) == ContainerKind.TFRECORD
    try:
        for entry in entries:
            count += 1
            if count > MAX_MEMBERS:
                raise ArchiveError(Reason.TOO_LARGE, f"more than {MAX_MEMBERS} members")  # noqa: TRY301
            yield _classify(path, entry, seen, is_record=records)
    except ArchiveError as error:
        raise ArchiveError(error.reason, f"{error}; {count} members before it were read") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        reason = Reason.TRUNCATED_ARCHIVE if isinstance(error, EOFError) else Reason.CORRUPT_ARCHIVE
        raise ArchiveError(reason, f"the gzip stream breaks after {count} members: {error}") from error


def _classify(path: str, entry: ArchiveEntry, seen: set[str], *, is_record: bool) -> FoundMember:
    key = to_key(entry.name)
    name = key.rpartition("/")[2]
    if any(is_hidden(part) for part in key.split("/")):
        return FoundMember(None, key, entry, HIDDEN)
    problem = entry.problem
    if kind_of(name) is not None or name.lower().endswith(_NOT_READ):
        problem = Reason.NESTED_ARCHIVE, "an archive in an archive; unpack it"
    elif not is_record and not _is_image(name, entry):
        return FoundMember(None, key, entry)
    if not name:
        problem = Reason.UNREADABLE, f"the member's name {entry.name!r} has no file name"
    unique = _make_unique(key, seen)
    if unique != key:
        problem = Reason.DUPLICATE_MEMBER, f"the archive has {key!r} more than once; the first is used"
    if problem is not None:
        return FoundMember(ImageRef(path, unique, reason=problem[0], message=problem[1]), key, entry)
    return FoundMember(ImageRef(path, key, entry.offset, entry.length), key, entry)


def _is_image(name: str, entry: ArchiveEntry) -> bool:
    verdict = classify(name)
    if verdict != Candidate.LOOK_INSIDE or entry.problem is not None:
        return verdict == Candidate.YES
    try:
        return is_dicom(entry.read(DICOM_START))
    except ArchiveError:
        raise
    except ImageError:
        return False


def _make_unique(key: str, seen: set[str]) -> str:
    """Return the key, or for one that is taken the first of ``key#2``, ``key#3``, … that is not."""
    unique, number = key, 1
    while unique in seen:
        number += 1
        unique = f"{key}#{number}"
    seen.add(unique)
    return unique


def read_small_members(
    root: str, path: str, suffixes: tuple[str, ...], max_bytes: int
) -> Iterator[tuple[str, bytes | None]]:
    """Yield the key of each member, with the contents if it has one of the suffixes and is neither larger nor damaged.

    Raises:
        OSError: the error is not caused by the file itself.
    """
    try:
        with storage.open_stream(storage.locate(root, path)) as file:
            for entry in _open_entries(path, file):
                key = to_key(entry.name)
                content: bytes | ImageError | None = None
                if suffix_of(key.rpartition("/")[2]) in suffixes and entry.length <= max_bytes and not entry.problem:
                    content = _read_or_error(entry)
                yield key, content if isinstance(content, bytes) and len(content) <= max_bytes else None
    except (ArchiveError, EOFError, zlib.error, OSError) as error:
        _fault(path, error)  # the images of the container tell of it


def read_record_integers(root: str, path: str) -> Iterator[tuple[str, dict[str, int]]]:
    """Yield the number of each record of a TFRecord file and its features with one integer; damaged ones are left out.

    The bytes of images are not read, unless the file is gzipped.

    Raises:
        OSError: the error is not caused by the file itself.
    """
    try:
        with storage.open_stream(storage.locate(root, path)) as file:
            for entry in _open_entries(path, file):
                try:
                    if isinstance(entry.read, _ReadOnce):
                        data = entry.read(None)
                        features = parse_example(io.BytesIO(data), 0, len(data))
                    else:
                        features = parse_example(file, entry.offset + RECORD_HEAD_BYTES, entry.length)
                except ArchiveError:
                    raise
                except ImageError:
                    continue  # its own row tells of it
                single = {name: found.integers[0] for name, found in features.items() if len(found.integers) == 1}
                yield to_key(entry.name), single
    except (ArchiveError, EOFError, zlib.error, OSError) as error:
        _fault(path, error)


def _open_entries(path: str, file: IO[bytes]) -> Iterator[ArchiveEntry]:
    """Return the entries of an open container, gzipped or not."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    start = file.read(len(_GZIP_MAGIC))
    file.seek(0)
    if start != _GZIP_MAGIC:
        return _entries(path, file, size)
    stream = cast("ByteStream", gzip.GzipFile(fileobj=file))
    return (entry._replace(read=_ReadOnce(entry.read)) for entry in _entries(path, stream, None))
