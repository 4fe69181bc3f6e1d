"""Join images with metadata lines, by path or by name, and never by a name that is not unique."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from enum import StrEnum

import pyarrow as pa
import pyarrow.compute as pc

from cxrfeat.io.container_names import inner_path
from cxrfeat.io.schema import METADATA, Status

SUFFIXES = frozenset(("png", "jpg", "jpeg", "dcm", "dicom", "tif", "tiff", "bmp"))
"""Suffixes that a table may leave out or give differently; any other ending belongs to the name, as in a DICOM UID."""


class MetadataStatus(StrEnum):
    """Outcome of the search for an image's metadata line."""

    MATCHED = "matched"
    NO_LINE = "no-line"
    AMBIGUOUS_NAME = "ambiguous-name"
    REJECTED_LINE = "rejected-line"


class ImageMatcher:
    """Matcher of image paths with the lines of a metadata table.

    A table with folders is matched by path, relative to the images root; folders that all its paths share may be
    absent from the root, and folders that all images share may be absent from the table. A table without folders, and
    one whose paths fit no image, is matched by file name, where the name is unique among the images and in the table.
    Images in containers are matched by their whole path, or by the path inside their container. In all cases, an exact
    match comes first; without one, the suffix is ignored where that leaves the name unique.

    Images of a container without an index are known only when it is read: the way of matching is chosen again while
    none of the images known so far matches by path.

    Attributes:
        by_path: True if images are matched by path.
        placeholders: columns that the table lacks; the header of an image knows better.
        stripped: folders at the start of the table's paths that were left out to match; empty without such.
    """

    def __init__(self, lines: pa.Table, listed: Iterable[str], placeholders: Sequence[str] = ()) -> None:
        """Index the lines.

        Args:
            lines: table of :data:`cxrfeat.io.schema.METADATA_LINES`.
            listed: paths of all images that exist now, relative to the images root.
            placeholders: columns that the table lacks, filled with something derived from the image.
        """
        self.placeholders = tuple(placeholders)
        self._lines = lines
        self._accepted = pc.equal(lines["status"], Status.OK.value).to_pylist()
        self._choose_keys(dict.fromkeys(listed))

    def _choose_keys(self, images: Iterable[str]) -> None:
        """Choose how images are matched, and index the lines and the images accordingly."""
        images = list(images)
        paths = self._lines["image_path"].to_pylist()
        self.stripped, self._image_prefix, self._inside = _find_prefixes(paths, images)
        self.by_path = self.stripped is not None
        values = paths if self.by_path else self._lines["image_index"].to_pylist()
        keys = [None if value is None else value.removeprefix(self.stripped or "") for value in values]
        self._exact = _index(keys)  # path or file name → lines
        self._stems = _index([None if key is None else strip_suffix(key) for key in keys])
        self._known: dict[str, None] = {}
        self._images: Counter[str] = Counter()  # path or file name → number of images
        self._image_stems: Counter[str] = Counter()
        self._may_match_by_path = False
        self._count(images)
        self._may_match_by_path = not self.by_path and any(path is not None for path in paths)

    def match(self, images: Sequence[str]) -> pa.Table:
        """Return one row per image: its path, the columns of its metadata line, and ``metadata_status``.

        Args:
            images: (N,) paths relative to the images root.

        Returns:
            (N rows) ``image_path``, :data:`cxrfeat.io.schema.METADATA` without ``image_index``, ``metadata_status``.
            The metadata is null unless the status is ``matched``.
        """
        self._count(images)
        found = [self._find(image) for image in images]
        rows = pa.array([row if status == MetadataStatus.MATCHED else None for row, status in found], pa.int64())
        columns = [name for name in METADATA.names if name != "image_index"]
        table = self._lines.select(columns).take(rows)
        table = table.add_column(0, "image_path", pa.array(images, pa.string()))
        return table.append_column("metadata_status", pa.array([status.value for _, status in found], pa.string()))

    def find_rows(self, images: Sequence[str]) -> list[int | None]:
        """Return the matching row of the lines for each image path or name; None unless it is matched."""
        self._count(images)
        found = map(self._find, images)
        return [row if status == MetadataStatus.MATCHED else None for row, status in found]

    def find_unused(self, images: Sequence[str]) -> list[str]:
        """Return the sorted images of the accepted lines that match none of the given image paths."""
        used = {row for row, status in map(self._find, images) if status == MetadataStatus.MATCHED}
        keys = pc.coalesce(self._lines["image_path"], self._lines["image_index"]).to_pylist()
        return sorted(key for row, key in enumerate(keys) if self._accepted[row] and row not in used)

    def describe(self) -> str:
        """Return how images are matched, as one sentence."""
        if not self.by_path:
            return "images are matched with the metadata by file name"
        left_out = f", without the leading {self.stripped} of the table" if self.stripped else ""
        return f"images are matched with the metadata by path{left_out}"

    def _key(self, image: str) -> str:
        """Return the part of an image path that identifies it in the table."""
        if not self.by_path:
            return image.rpartition("/")[2]
        return (inner_path(image) if self._inside else image).removeprefix(self._image_prefix)

    def _find(self, image: str) -> tuple[int | None, MetadataStatus]:
        """Return the line of an image, and the outcome."""
        key = self._key(image)
        stem = strip_suffix(key)
        for name, lines, images in ((key, self._exact, self._images), (stem, self._stems, self._image_stems)):
            if name in lines:
                return (None, MetadataStatus.AMBIGUOUS_NAME) if images[name] > 1 else self._choose(lines[name])
        return None, MetadataStatus.NO_LINE

    def _choose(self, found: int | list[int]) -> tuple[int | None, MetadataStatus]:
        rows = [found] if isinstance(found, int) else found
        accepted = [row for row in rows if self._accepted[row]]
        if len(accepted) > 1:
            return None, MetadataStatus.AMBIGUOUS_NAME
        if accepted:
            return accepted[0], MetadataStatus.MATCHED
        return None, MetadataStatus.REJECTED_LINE

    def _count(self, images: Iterable[str]) -> None:
        """Count the names of images that are new."""
        new = [image for image in images if image not in self._known]
        if new and self._may_match_by_path:
            self._choose_keys(dict.fromkeys([*self._known, *new]))
            return
        for image in new:
            if image not in self._known:
                self._known[image] = None
                key = self._key(image)
                self._images[key] += 1
                self._image_stems[strip_suffix(key)] += 1


def _index(keys: Sequence[str | None]) -> dict[str, int | list[int]]:
    """Return key → row, or the list of rows of a key that occurs several times."""
    index: dict[str, int | list[int]] = {}
    for row, key in enumerate(keys):
        if key is None:
            continue
        first = index.setdefault(key, row)
        if isinstance(first, list):
            first.append(row)
        elif first != row:
            index[key] = [first, row]
    return index


def strip_suffix(name: str) -> str:
    """Return a file name without an image suffix.

    Example:
        >>> strip_suffix("a.PNG"), strip_suffix("1.2.840.113")
        ('a', '1.2.840.113')
    """
    stem, _, suffix = name.rpartition(".")
    return stem if stem and suffix.lower() in SUFFIXES else name


def _find_prefixes(paths: Sequence[str | None], images: Sequence[str]) -> tuple[str | None, str, bool]:
    """Return the leading folders to leave out of the table's paths and of the images' paths, so that most images match.

    The first is None if the table has no folders, or if no image matches by path. The last is True if the images' paths
    are those inside their containers.
    """
    known = {path for path in paths if path is not None}
    best = 0
    chosen: tuple[str | None, str, bool] = None, "", False
    if not known:
        return chosen
    inner = [inner_path(image) for image in images]
    # Paths inside containers come first: the next containers have other names, but the same folders.
    for inside, places in ((True, inner if inner != images else []), (False, images)):
        for image_prefix in _prefixes(places):
            targets = {strip_suffix(place.removeprefix(image_prefix)) for place in places}
            for prefix in _prefixes(known):
                matches = sum(strip_suffix(path.removeprefix(prefix)) in targets for path in known)
                if matches > best:
                    best, chosen = matches, (prefix, image_prefix, inside)
    return chosen


def _prefixes(paths: Iterable[str]) -> list[str]:
    """Return the empty prefix and every run of leading folders that all paths share, the shortest first."""
    folders = [path.split("/")[:-1] for path in paths]
    prefixes = [""]
    for level in zip(*folders, strict=False):
        if len(set(level)) > 1:
            break
        prefixes.append(f"{prefixes[-1]}{level[0]}/")
    return prefixes
