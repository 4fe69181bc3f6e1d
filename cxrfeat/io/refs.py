"""References to the items that a round processes: files, members of containers, and whole containers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import pyarrow as pa

from cxrfeat.io.schema import HANDLE


class ImageRef(NamedTuple):
    """Place of an image, or of another file that a round processes; a row of :data:`cxrfeat.io.schema.HANDLE`.

    Attributes:
        path: path of the file, relative to the root of the job, as :mod:`cxrfeat.io.file_names` writes it.
        member: name of the member of a container; None for a file, and for a container that is read as a whole.
        offset: place of the member in the container in bytes; None if the container has no index.
        length: bytes of the member in the container, or of a container that is read as a whole.
        reason: reason code of an item that is quarantined without being read, or None.
        message: explanation of the reason.
    """

    path: str
    member: str | None = None
    offset: int | None = None
    length: int | None = None
    reason: str | None = None
    message: str | None = None

    @property
    def key(self) -> str:
        """Return the item's ``image_path``: the path of the file, and the name of the member as if in a folder."""
        return self.path if self.member is None else f"{self.path}/{self.member}"


def to_table(refs: Iterable[ImageRef]) -> pa.Table:
    """Return references as a table of :data:`cxrfeat.io.schema.HANDLE`."""
    columns = list(zip(*refs, strict=True)) or [()] * len(HANDLE)
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, HANDLE, strict=True)], HANDLE)


def from_table(table: pa.Table | pa.RecordBatch) -> list[ImageRef]:
    """Return the references in a table or batch of :data:`cxrfeat.io.schema.HANDLE`."""
    return list(map(ImageRef._make, zip(*(table.column(name).to_pylist() for name in HANDLE.names), strict=True)))


def is_whole(item: ImageRef) -> bool:
    """Return True for a container that is read as a whole, whose images are known only afterwards."""
    return item.member is None and item.length is not None and item.reason is None


def is_streamed(item: ImageRef) -> bool:
    """Return True for a container that is read as a whole, and for a member of such a container."""
    return is_whole(item) or (item.member is not None and item.offset is None and item.reason is None)
