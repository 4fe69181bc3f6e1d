"""Counts of the files below a folder, and of the members of containers, that are not images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cxrfeat.io.listing import suffix_of

HIDDEN = "hidden"
"""Kind of the skipped files and folders whose names Spark and Hadoop hide."""

NO_SUFFIX = "no suffix"


@dataclass
class Skipped:
    """Files that are not images, by suffix.

    Attributes:
        counts: kind of file → number of files.
        examples: kind of file → path of one of them, the first in the order of paths.
        folders: folder → numbers of images and of other files below it; for the root (``.``) and the folders in it.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    folders: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, path: str, kind: str | None = None) -> None:
        """Count a file that is not an image; its kind is its suffix unless given."""
        self._count_in_folders(path, 0, int(kind != HIDDEN))
        self._count(kind or suffix_of(path.rpartition("/")[2]) or NO_SUFFIX, path, 1)

    def take(self, path: str) -> None:
        """Count an image."""
        self._count_in_folders(path, 1, 0)

    def merge(self, other: Skipped) -> None:
        """Add the counts of another part of the same folder."""
        for kind, count in other.counts.items():
            self._count(kind, other.examples[kind], count)
        for folder, counts in other.folders.items():
            self._count_folder(folder, *counts)

    def to_json(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        return {"kinds": self.counts, "examples": self.examples, "folders": self.folders}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Skipped:
        """Return the counts from the values of :meth:`to_json`."""
        folders = {folder: (images, others) for folder, (images, others) in values["folders"].items()}
        return cls(Counter(values["kinds"]), dict(values["examples"]), folders)

    def _count(self, kind: str, path: str, count: int) -> None:
        self.counts[kind] += count
        self.examples[kind] = min(path, self.examples.get(kind, path))

    def _count_in_folders(self, path: str, images: int, others: int) -> None:
        for folder in (".", *path.split("/", 1)[:-1]):
            self._count_folder(folder, images, others)

    def _count_folder(self, folder: str, images: int, others: int) -> None:
        before = self.folders.get(folder, (0, 0))
        self.folders[folder] = before[0] + images, before[1] + others

    def list_mostly_skipped(self) -> list[tuple[str, int, int]]:
        """Return folder, number of skipped files and of all files of the folders with more others than images."""
        found = [(folder, others, images + others) for folder, (images, others) in self.folders.items()]
        return sorted(entry for entry in found if 2 * entry[1] > entry[2])
