"""List what a job processes: images in files and containers, or drops, and count the files that are neither."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cxrfeat.errors import ConfigError
from cxrfeat.images.candidates import DICOM_START, Candidate, classify, is_dicom
from cxrfeat.io import storage
from cxrfeat.io.listing import suffix_of, walk
from cxrfeat.io.refs import ImageRef
from cxrfeat.io.skipped import HIDDEN, Skipped

_READERS = 16
"""Threads that look into files, for object stores."""


@dataclass(frozen=True)
class Listing:
    """Result of listing a folder.

    Attributes:
        items: the images, sorted by key.
        skipped: everything else.
    """

    items: Sequence[ImageRef]
    skipped: Skipped


class Source:
    """Items of a job, listed once at the start and again for each later check.

    Attributes:
        listing: the latest listing.
    """

    def __init__(self, lister: Callable[[Set[str]], Listing]) -> None:
        """List the source.

        Args:
            lister: function from the keys that earlier rounds have taken to a listing.
        """
        self._lister = lister
        self._is_new = True
        self.listing = lister(frozenset())

    def list_new(self, known: Set[str]) -> list[ImageRef]:
        """Return the items whose keys are not known; the first call uses the listing of the start."""
        if not self._is_new:
            self.listing = self._lister(known)
        self._is_new = False
        return [item for item in self.listing.items if item.key not in known]


def list_images(root: str, known: Set[str] = frozenset()) -> Listing:
    """List the images below a folder.

    Args:
        root: qualified location of the folder.
        known: keys of images that earlier rounds have taken; files among them are not opened again.

    Raises:
        ConfigError: the folder does not exist, or the listing fails.
    """
    skipped = Skipped()
    paths: list[str] = []
    unclear: list[str] = []
    for found in walk(root):
        verdict = Candidate.YES if found.path in known else classify(found.name)
        if found.hidden:
            skipped.add(found.path, HIDDEN)
        elif verdict == Candidate.YES:
            paths.append(found.path)
        elif verdict == Candidate.LOOK_INSIDE and found.regular:
            unclear.append(found.path)
        elif found.regular:
            skipped.add(found.path)
    for path, dicom in _look_inside(root, unclear):
        if dicom:
            paths.append(path)
        else:
            skipped.add(path)
    for path in paths:
        skipped.take(path)
    return Listing([ImageRef(path) for path in sorted(paths)], skipped)


def list_drops(root: str, suffixes: tuple[str, ...]) -> Listing:
    """List the Parquet files below a folder.

    Raises:
        ConfigError: see :func:`list_images`.
    """
    skipped = Skipped()
    paths = []
    for found in walk(root):
        if not found.hidden and suffix_of(found.name) in suffixes:
            paths.append(found.path)
        elif found.hidden or found.regular:
            skipped.add(found.path, HIDDEN if found.hidden else None)
    return Listing([ImageRef(path) for path in sorted(paths)], skipped)


def require_items(listing: Listing, root: str, kind: str, suffixes: Sequence[str]) -> None:
    """Check that a listing is not empty.

    Args:
        listing: the listing.
        root: folder that was listed.
        kind: name of one item.
        suffixes: suffixes of the items.

    Raises:
        ConfigError: it is; the message says what is there instead.
    """
    if not listing.items:
        counts = listing.skipped.counts.most_common(5)
        found = ", ".join(f"{count:,} {kind} ({listing.skipped.examples[kind]})" for kind, count in counts) or "nothing"
        expected = ", ".join(suffixes)
        raise ConfigError(f"no {kind} found in {root}; expected {expected} files at any depth; it has {found}")


def _look_inside(root: str, paths: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Yield for each file whether it is DICOM."""
    if not paths:
        return
    with ThreadPoolExecutor(_READERS) as pool:
        yield from zip(paths, pool.map(lambda path: _starts_as_dicom(root, path), paths), strict=True)


def _starts_as_dicom(root: str, path: str) -> bool:
    try:
        with storage.open_input(storage.locate(root, path)) as stream:
            return is_dicom(stream.read(DICOM_START))
    except OSError as error:
        if storage.quarantine_reason(error) is None:
            raise ConfigError(f"cannot read {path!r} in {root!r}: {error}") from error
        return error.errno in (errno.EACCES, errno.EPERM)  # it may be an image: its round says why it is not read
