"""Entries of archives: what all container formats have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from cxrfeat.errors import ImageError
from cxrfeat.images.decoded_image import MAX_FILE_BYTES
from cxrfeat.io.file_names import to_text
from cxrfeat.io.schema import Reason

MAX_MEMBER_BYTES = MAX_FILE_BYTES
"""Size limit of one member, as of one file."""

MAX_OFFSET = 1 << 60
"""Largest size that is taken for a size; file systems take no offset much larger."""

MAX_MEMBERS = 2_000_000
"""Limit of the entries of one container."""


class ByteStream(Protocol):
    """File-like object that reads and moves forward; a decompressed stream is one."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes."""
        ...

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move to an absolute offset."""
        ...


class ArchiveError(ImageError):
    """A container that cannot be read beyond some point; the entries before it are good."""


class ArchiveEntry(NamedTuple):
    """One entry of a container.

    Attributes:
        name: name as the container has it.
        offset: place of the entry's header in bytes.
        length: bytes of the entry's data in the container.
        read: function that returns the first bytes of the contents, or all of them for None; a stream offers it until
            the next entry is taken.
        problem: reason and message of an entry that cannot be read, or None.
    """

    name: bytes
    offset: int
    length: int
    read: Callable[[int | None], bytes]
    problem: tuple[Reason, str] | None = None


def to_key(name: bytes) -> str:
    """Return the name of a member as a key: relative, without ``.`` and ``..``, as text.

    Keys are never paths on disk. Two names that give the same key are duplicates.

    Example:
        >>> to_key(b"./a//b.png"), to_key(b"/etc/../x.png")
        ('a/b.png', 'etc/x.png')
    """
    return to_text(b"/".join(part for part in name.split(b"/") if part not in (b"", b".", b"..")))


def read_exactly(stream: ByteStream, size: int, where: str) -> bytes:
    """Return ``size`` bytes.

    Raises:
        ArchiveError: the stream ends before; the message says where.
    """
    data = stream.read(size)
    if len(data) < size:
        raise ArchiveError(Reason.TRUNCATED_ARCHIVE, f"{where}: {len(data)} bytes left; expected {size}")
    return bytes(data)


def check_end(end: int, size: int | None, what: str) -> None:
    """Check that an entry lies within its container.

    Args:
        end: end of the entry in bytes.
        size: size of the container; None for a stream, whose end shows itself.
        what: name of the entry for the message.

    Raises:
        ArchiveError: the container ends before.
    """
    if size is not None and end > size:
        raise ArchiveError(Reason.TRUNCATED_ARCHIVE, f"{what} ends at byte {end}; the file has {size}")


def check_size(size: int) -> tuple[Reason, str] | None:
    """Return the problem of an entry that is too large, or None."""
    if size <= MAX_MEMBER_BYTES:
        return None
    return Reason.TOO_LARGE, f"member of {size} bytes; the limit is {MAX_MEMBER_BYTES}"
