"""Names of containers: files that hold images as members."""

from __future__ import annotations

from enum import StrEnum

from cxrfeat.io.listing import suffix_of


class ContainerKind(StrEnum):
    """Format of a container."""

    TAR = "tar"
    ZIP = "zip"
    TFRECORD = "tfrecord"


_SUFFIXES = {
    ".tar.gz": ContainerKind.TAR,
    ".tgz": ContainerKind.TAR,
    ".tar": ContainerKind.TAR,
    ".zip": ContainerKind.ZIP,
    **{
        f"{suffix}{gz}": ContainerKind.TFRECORD
        for suffix in (".tfrec", ".tfrecord", ".tfrecords")
        for gz in ("", ".gz")
    },
}

_LAST_SUFFIXES = frozenset(map(suffix_of, (f"x{suffix}" for suffix in _SUFFIXES)))


def kind_of(path: str) -> ContainerKind | None:
    """Return the format of a container by its suffix; None for other files.

    Example:
        >>> str(kind_of("images_001.tar.gz")), str(kind_of("a/x.ZIP")), kind_of("a.png")
        ('tar', 'zip', None)
    """
    if suffix_of(path) not in _LAST_SUFFIXES:  # nearly all files
        return None
    name = path.rpartition("/")[2].lower()
    return next((kind for suffix, kind in _SUFFIXES.items() if name.endswith(suffix) and name != suffix), None)


def inner_path(path: str) -> str:
    """Return the part of a member's path that lies inside its container; of another path, all of it.

    Example:
        >>> inner_path("nih/images_001.tar.gz/images/1.png"), inner_path("a/b.png")
        ('images/1.png', 'a/b.png')
    """
    folders = path.split("/")
    for place in range(len(folders) - 1, 0, -1):
        if kind_of(folders[place - 1]) is not None:
            return "/".join(folders[place:])
    return path
