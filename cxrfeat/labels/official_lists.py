"""Official split lists: files with one image name per line, such as NIH's train_val_list.txt and test_list.txt."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from cxrfeat.errors import ConfigError, MetadataError
from cxrfeat.labels.cells import is_missing
from cxrfeat.labels.matching import strip_suffix
from cxrfeat.labels.metadata import normalise_path
from cxrfeat.labels.table_text import read_text, split_lines

TRAIN_VAL, TEST = "train_val", "test"

_NUMBERS = re.compile(r"(?:\s+-?\d+(?:\.\d+)?)+", re.ASCII)
"""Labels after the name, as in ``00011997_003.png 0 0 1``."""


@dataclass(frozen=True)
class OfficialLists:
    """Names of two official lists.

    Attributes:
        locations: list → path or URI of its file.
        names: list → names or paths, as written in the file but without quotes and further columns.
    """

    locations: Mapping[str, str]
    names: Mapping[str, Sequence[str]]

    def find(self, images: Iterable[str]) -> list[str | None]:
        """Return for each image, a name or path, the list that holds it; None if no list does.

        An entry with folders stands for the images whose path ends with it; one without for all images of its name. The
        suffix may be left out. An image in both lists gets the first one that holds it: ``test`` before ``train_val``.
        """
        return [_find(key(image), self._keys) for image in images]

    @cached_property
    def _keys(self) -> dict[str, set[str]]:
        """List → entries in the form in which they are compared."""
        return {name: {key(entry) for entry in entries} for name, entries in self.names.items()}

    def check(self, images: Sequence[str], lines: pa.Table, max_unmatched: float) -> list[str]:
        """Check that the lists belong to the images, and return one sentence per list for the log.

        Args:
            images: paths of all images.
            lines: the metadata lines.
            max_unmatched: largest accepted share of images that are in neither list, 0 to 1.

        Raises:
            ConfigError: a list has no name that the images or the metadata have, or too many images are in neither
                list; the message shows one name of each side.
        """
        found = self.find(images)
        known = lines["image_index"].to_pylist()
        messages = []
        for name, entries in self.names.items():
            count = found.count(name)
            if not count and name not in self.find(entry for entry in known if entry is not None):
                example = images[0] if images else next(filter(None, known), "none")
                raise ConfigError(
                    f"{self.locations[name]}: none of its {len(entries):,} names is known to the images or the "
                    f"metadata; the list has for example {entries[0]}, the images {example}"
                )
            messages.append(f"{self.locations[name]}: {len(entries):,} names; {count:,} of {len(images):,} images")
        neither = [image for image, place in zip(images, found, strict=True) if place is None]
        if images and len(neither) > max_unmatched * len(images):
            raise ConfigError(
                f"{len(neither):,} of {len(images):,} images are in neither list, for example {neither[0]}; "
                f"{self.locations[TEST]} has for example {self.names[TEST][0]}. At most {max_unmatched:.1%} may be in "
                "neither (--max-unmatched)"
            )
        return messages


def read_lists(train_val: str, test: str) -> OfficialLists:
    """Read both lists.

    Raises:
        ConfigError: a file does not exist.
        MetadataError: as :func:`read_list`.
    """
    train_val_names = read_list(train_val)
    return OfficialLists({TEST: test, TRAIN_VAL: train_val}, {TEST: read_list(test), TRAIN_VAL: train_val_names})


def read_list(location: str) -> list[str]:
    """Return the unique image names of a list, in its order.

    A line holds a name, with or without folder, suffix and quotes; further columns after a tab, a comma or a semicolon,
    and numbers after blanks, are ignored.

    Raises:
        ConfigError: the file does not exist.
        MetadataError: the file is not a readable text, or has no names.
    """
    names = [_parse_line(line) for line in split_lines(read_text(location))]
    unique = list(dict.fromkeys(name for name in names if not is_missing(name)))
    if not unique:
        raise MetadataError(f"{location} is empty; expected one file name per line")
    return unique


def key(name: str) -> str:
    r"""Return a name or path in the form in which entries and images are compared.

    Example:
        >>> key(r".\images\a.PNG")
        'images/a'
    """
    return strip_suffix(normalise_path(name))


def _parse_line(line: str) -> str:
    text = line.replace("\ufeff", "").strip()
    quoted = re.match(r'"((?:[^"]|"")*)"|\'([^\']*)\'', text)
    if quoted:
        return (quoted[1] or quoted[2] or "").replace('""', '"').strip()
    first = re.split(r"[\t,;]", text, maxsplit=1)[0].strip()
    numbers = _NUMBERS.search(first)
    if numbers and numbers.end() == len(first):
        name = first[: numbers.start()]
        if (
            strip_suffix(name) != name or len(numbers[0].split()) > 1
        ):  # "img 1" is a name, "img.png 1" and "img 0 1" not
            return name
    return first


def _find(image: str, keys: Mapping[str, set[str]]) -> str | None:
    """Return the list that holds the path of an image, or one of its ends."""
    parts = image.split("/")
    ends = [image] if len(parts) == 1 else ["/".join(parts[start:]) for start in range(len(parts))]
    for name, entries in keys.items():
        if not entries.isdisjoint(ends):
            return name
    return None
