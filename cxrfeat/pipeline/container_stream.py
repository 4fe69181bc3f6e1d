"""Containers that several threads read together, one member at a time."""

from __future__ import annotations

import threading
from collections.abc import Set
from dataclasses import dataclass

from cxrfeat.errors import ImageError
from cxrfeat.images.containers import stream_container
from cxrfeat.io.refs import ImageRef
from cxrfeat.io.schema import Reason
from cxrfeat.io.skipped import Skipped


@dataclass(frozen=True)
class ContainerCount:
    """Counts of a container that was read as a whole.

    Attributes:
        path: its path.
        items: number of images, with those in quarantine, and the container itself if it is damaged.
        skipped: members that are not images.
    """

    path: str
    items: int
    skipped: Skipped


class ContainerStream:
    """Images of a container in one pass; threads take turns to read and then work on what they have read.

    So the bytes in memory are those of one member per thread.

    Attributes:
        ended: True if a call of :meth:`read_next` has found the end.
    """

    def __init__(self, root: str, path: str, wanted: Set[str] | None = None) -> None:
        """Open the container at the first read.

        Args:
            root: qualified images root.
            path: path of the container.
            wanted: names of the members to return; None for all.
        """
        self._skipped = Skipped()
        self._members = stream_container(root, path, self._skipped)
        self._path = path
        self._missing = None if wanted is None else set(wanted)
        self._items = 0
        self._lock = threading.Lock()
        self.ended = False

    def read_next(self) -> tuple[ImageRef, bytes | ImageError] | None:
        """Return the next image and its bytes, or its error; None at the end.

        Raises:
            OSError: the error is not caused by the container itself.
        """
        with self._lock:
            try:
                while (found := next(self._members, None)) is not None:
                    item, data = found
                    if self._missing is None or item.member in self._missing:
                        self._items += 1
                        self._skipped.take(item.key)
                        if self._missing is not None:
                            self._missing.discard(item.member or "")
                        return item, ImageError(item.reason or "", item.message or "") if data is None else data
                if self._missing:
                    self._items += 1
                    member = self._missing.pop()
                    gone = ImageError(Reason.MISSING, f"the container has no member {member!r}")
                    return ImageRef(self._path, member), gone
            except BaseException:
                self.ended = True
                raise
            self.ended = True
            return None

    def count(self) -> ContainerCount:
        """Return the counts; they are complete at the end."""
        return ContainerCount(self._path, self._items, self._skipped)
