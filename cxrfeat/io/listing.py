"""List the files below a folder, on local disks and on every file system of pyarrow.

Local folders are read as bytes, so that names in any encoding and any locale come through. Every real folder is walked
once: a symbolic link is followed unless it leads to a folder that is walked anyway, or to one that contains the root.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow.fs as pafs

from cxrfeat.io import storage
from cxrfeat.io.file_names import to_text


class FoundFile(NamedTuple):
    """One file below a folder.

    Attributes:
        path: path relative to the folder, as :func:`cxrfeat.io.file_names.to_text` writes it.
        regular: False for a dangling link, a FIFO, a socket or a device.
        hidden: True if Spark and Hadoop would skip the name; the contents of a hidden folder are not listed.
    """

    path: str
    regular: bool = True
    hidden: bool = False

    @property
    def name(self) -> str:
        """Return the last segment of the path."""
        return self.path.rpartition("/")[2]


def walk(root: str) -> Iterator[FoundFile]:
    """Yield everything below a folder that is not a folder itself, and each hidden folder as one hidden entry.

    Raises:
        ConfigError: the path does not exist, is not a folder, or the listing fails.
    """
    storage.check_folder(root)
    with storage.as_config_error(root):
        if storage.is_local(root):
            yield from _walk_local(os.fsencode(storage.qualify(root)))
        else:
            yield from _walk_remote(root)


def list_files(root: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    """Yield the paths of the files below a folder whose names have one of the suffixes, relative to the folder.

    Suffixes are given in lower case and compared without regard to case. Hidden names are skipped.

    Raises:
        ConfigError: see :func:`walk`.
    """
    for found in walk(root):
        if not found.hidden and suffix_of(found.name) in suffixes:
            yield found.path


def suffix_of(name: str) -> str:
    """Return the suffix of a file name in lower case, with its dot; empty without one.

    Example:
        >>> suffix_of("a.b.PNG"), suffix_of("DICOMDIR"), suffix_of(".profile")
        ('.png', '', '')
    """
    stem, dot, suffix = name.rpartition(".")
    return f"{dot}{suffix}".lower() if stem else ""


def is_hidden(name: str) -> bool:
    """Return True for names that org.apache.spark.util.HadoopFSUtils.shouldFilterOutPathName filters out."""
    return name.startswith(".") or (name.startswith("_") and "=" not in name) or name.endswith("._COPYING_")


def _walk_remote(root: str) -> Iterator[FoundFile]:
    filesystem, base = storage.open_filesystem(root)
    hidden_folders: set[str] = set()
    for info in filesystem.get_file_info(pafs.FileSelector(base, recursive=True)):
        path = storage.relative_to(info.path, base)
        segments = path.split("/")
        depth = next((index for index, name in enumerate(segments) if is_hidden(name)), None)
        if depth is not None and depth < len(segments) - 1:
            folder = "/".join(segments[: depth + 1])
            if folder not in hidden_folders:
                hidden_folders.add(folder)
                yield FoundFile(folder, hidden=True)
        elif info.type == pafs.FileType.File:
            yield FoundFile(path, hidden=depth is not None)


def _walk_local(root: bytes) -> Iterator[FoundFile]:
    seen = set(_folders_above(root))
    stack, links = [b""], deque[bytes]()
    while stack or links:
        # Links come last, so that a folder is listed under its own path wherever it has one below the root.
        folder = stack.pop() if stack else links.popleft()
        try:
            identity = _identify(os.path.join(root, folder))  # noqa: PTH118
            if folder and identity in seen:
                continue
            seen.add(identity)
            with os.scandir(os.path.join(root, folder)) as scan:  # noqa: PTH118
                entries = sorted(scan, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            if not folder:
                raise
            continue  # removed since its parent was read
        folders = []
        for entry in entries:
            path = os.path.join(folder, entry.name)  # noqa: PTH118
            text, hidden = to_text(path), is_hidden(os.fsdecode(entry.name))
            if entry.is_dir(follow_symlinks=False):
                if hidden:
                    yield FoundFile(text, hidden=True)
                else:
                    folders.append(path)
            elif not entry.is_symlink():
                yield FoundFile(text, entry.is_file(follow_symlinks=False), hidden)
            else:
                mode = _mode_of_target(entry)
                if not stat.S_ISDIR(mode):
                    yield FoundFile(text, stat.S_ISREG(mode), hidden)
                elif not hidden:
                    links.append(path)
        stack.extend(reversed(folders))


def _mode_of_target(link: os.DirEntry[bytes]) -> int:
    """Return the mode of the file that a link leads to; 0 if it leads to none."""
    try:
        return link.stat().st_mode
    except OSError:  # dangling, a loop, or not accessible: opening it gives the reason
        return 0


def _identify(folder: bytes) -> tuple[int, int]:
    found = os.stat(folder)  # noqa: PTH116
    return found.st_dev, found.st_ino


def _folders_above(root: bytes) -> Iterator[tuple[int, int]]:
    """Yield the identities of the folders that contain the root: a link to one of them would list the root again."""
    folder = os.path.realpath(root)
    while (parent := os.path.dirname(folder)) != folder:  # noqa: PTH120
        yield _identify(parent)
        folder = parent
