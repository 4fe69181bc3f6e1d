"""Names of files and members that may be images. What an image is, its content decides when it is read."""

from __future__ import annotations

import re
from enum import Enum, auto

from cxrfeat.io.listing import suffix_of
from cxrfeat.io.refs import ImageRef

SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom", ".tif", ".tiff", ".jp2", ".j2k", ".jpx", ".jls")
"""Suffixes of images in lower case: the formats that are read, and those that are quarantined by name."""

DICOM_START = 132
"""Number of bytes at the start of a file that show whether it is DICOM."""

_OTHER_FORMATS = frozenset(SUFFIXES) - {".dcm", ".dicom"}
_NOT_AN_IMAGE = frozenset({"dicomdir"})
_OPEN_SUFFIX = re.compile(r"\.(?:\d+|ima)?")


class Candidate(Enum):
    """Verdict on the name of a file."""

    YES = auto()
    LOOK_INSIDE = auto()
    NO = auto()


def classify(name: str) -> Candidate:
    """Return whether a file of this name may be an image.

    Exports of hospitals name DICOM files by their UID, so a name without a suffix, or with a number in its place, says
    nothing: such a file is an image if it starts as DICOM does.

    Example:
        >>> [classify(name).name for name in ("a.PNG", "IM0001", "1.2.840.113619.2.55", "DICOMDIR", "labels.csv")]
        ['YES', 'LOOK_INSIDE', 'LOOK_INSIDE', 'NO', 'NO']
    """
    suffix = suffix_of(name)
    if suffix in SUFFIXES:
        return Candidate.YES
    if name.lower() in _NOT_AN_IMAGE:
        return Candidate.NO
    return Candidate.LOOK_INSIDE if not suffix or _OPEN_SUFFIX.fullmatch(suffix) else Candidate.NO


def may_be_dicom(item: ImageRef) -> bool:
    """Return True unless the name of an image says that it is of another format."""
    return suffix_of(item.key.rpartition("/")[2]) not in _OTHER_FORMATS
