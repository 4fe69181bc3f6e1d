"""List what a job processes: images in files and containers, or drops, and count the files that are neither."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cxrfeat.errors import ConfigError
from cxrfeat.images.candidates import DICOM_START, Candidate, classify
from cxrfeat.images.containers import ContainerListing, index_container
from cxrfeat.images.dicom import is_dicom
from cxrfeat.io import storage
from cxrfeat.io.container_names import kind_of
from cxrfeat.io.listing import suffix_of, walk
from cxrfeat.io.refs import ImageRef, is_whole
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


class ImageLister:
    """Function that lists the images below a folder, in files and containers; see :meth:`__call__`."""

    def __init__(self, root: str) -> None:
        """Use a folder at a qualified location."""
        self._root = root
        self._indexed: dict[str, tuple[storage.Stamp, ContainerListing]] = {}

    def __call__(self, known: Set[str] = frozenset()) -> Listing:
        """List the folder. A container is read again only if its size or time has changed.

        Args:
            known: keys of images that earlier rounds have taken; files among them are not opened again.

        Raises:
            ConfigError: the folder does not exist, or the listing fails.
        """
        skipped = Skipped()
        paths: list[str] = []
        unclear: list[str] = []
        containers: list[str] = []
        for found in walk(self._root):
            verdict = Candidate.YES if found.path in known else classify(found.name)
            if found.hidden:
                skipped.add(found.path, HIDDEN)
            elif kind_of(found.path) is not None:
                containers.append(found.path)
            elif verdict == Candidate.YES:
                paths.append(found.path)
            elif verdict == Candidate.LOOK_INSIDE and found.regular:
                unclear.append(found.path)
            elif found.regular:
                skipped.add(found.path)
        with ThreadPoolExecutor(_READERS) as pool, storage.as_config_error(self._root):
            inside = list(pool.map(lambda path: _starts_as_dicom(self._root, path), unclear))
            contents = list(pool.map(self._index, containers))
        for path, dicom in zip(unclear, inside, strict=True):
            paths.append(path) if dicom else skipped.add(path)
        items = [ImageRef(path) for path in paths]
        for listing in contents:
            items += listing.items
            skipped.merge(listing.skipped)
        for item in items:
            if not is_whole(item):  # its images are counted when it is read
                skipped.take(item.key)
        return Listing(sorted(items, key=lambda item: item.key), skipped)

    def _index(self, path: str) -> ContainerListing:
        stamp = storage.stamp(storage.locate(self._root, path))
        if path not in self._indexed or self._indexed[path][0] != stamp:
            self._indexed[path] = stamp, index_container(self._root, path)
        return self._indexed[path][1]


def find_items(listing: Listing, keys: Sequence[str]) -> list[ImageRef]:
    """Return the items of keys that an earlier round has quarantined, to read them again.

    A container that was damaged and is not any more has no item: its members are listed like new ones. What is not in
    the listing becomes an item too, so that its absence is recorded.
    """
    by_key = {item.key: item for item in listing.items}
    wholes = {item.path for item in listing.items if is_whole(item)}
    indexed = {item.path for item in listing.items if item.member is not None}
    found = []
    for key in keys:
        folders = itertools.accumulate(key.split("/")[:-1], "{}/{}".format)
        container = next((folder for folder in folders if folder in wholes), None)
        if key in by_key:
            found.append(by_key[key])
        elif container is not None and container not in keys:
            found.append(ImageRef(container, key.removeprefix(f"{container}/")))
        elif container is None and key not in indexed:
            found.append(ImageRef(key))
    return sorted(found, key=lambda item: item.key)


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


def _starts_as_dicom(root: str, path: str) -> bool:
    try:
        with storage.open_input(storage.locate(root, path)) as stream:
            return is_dicom(stream.read(DICOM_START))
    except OSError as error:
        if storage.quarantine_reason(error) is None:
            raise
        return error.errno in (errno.EACCES, errno.EPERM)  # it may be an image: its round says why it is not read
