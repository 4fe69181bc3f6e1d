"""Access files by path or URI on local disk, S3, HDFS, GCS and every other file system of pyarrow.

Executors read images through this module, so pixels never pass through the JVM. Spark writes ``s3a://`` where pyarrow
writes ``s3://``; this module accepts both, and all stored locations use ``s3a://``.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pafs

from cxrfeat.errors import ConfigError
from cxrfeat.io.file_names import to_bytes
from cxrfeat.io.schema import Reason

_REASON_OF_ERRNO = {
    errno.ENOENT: Reason.MISSING,
    errno.ENOTDIR: Reason.MISSING,  # a folder in the path is now a file
    errno.EACCES: Reason.UNREADABLE,
    errno.EPERM: Reason.UNREADABLE,
    errno.EIO: Reason.UNREADABLE,
    errno.EISDIR: Reason.UNREADABLE,
    errno.ELOOP: Reason.UNREADABLE,
    errno.ENXIO: Reason.UNREADABLE,  # a socket
    errno.ENODEV: Reason.UNREADABLE,  # a FIFO or a device, see open_local
}
"""Errors of a single file. All other errors (network, out of file handles, …) fail the job."""

_REMOTE = re.compile(r"(?P<scheme>[a-zA-Z][\w+.-]*)://(?P<bucket>[^/]*)(?P<path>.*)", re.DOTALL)
_TO_SPARK_SCHEME = {"s3": "s3a", "s3n": "s3a"}
_TO_ARROW_SCHEME = {"s3a": "s3"}


def qualify(location: str) -> str:
    """Return the absolute form of a path or URI, without a trailing slash: ``/data/x``, ``s3a://bucket/x``.

    ``file:`` URIs become plain paths, ``s3:`` becomes ``s3a:``; symbolic links are kept.
    """
    if location.startswith("file:"):
        return from_spark(location)
    remote = _REMOTE.fullmatch(location)
    if remote:
        scheme = _TO_SPARK_SCHEME.get(remote["scheme"], remote["scheme"])
        return f"{scheme}://{remote['bucket']}{remote['path']}".rstrip("/")
    # Resolve ".." by name, as Hadoop does, so that Spark's paths start with ours; Path.resolve follows links.
    return os.path.abspath(Path(location).expanduser())  # noqa: PTH100


def from_spark(uri: str) -> str:
    """Return the form of :func:`qualify` for a percent-encoded URI from Spark's log."""
    uri = unquote(uri)
    if uri.startswith("file:"):
        return "/" + uri.removeprefix("file:").strip("/")
    return uri


def to_spark(location: str) -> str:
    """Return a path or URI with its scheme; without one, Spark uses the cluster's default file system."""
    location = qualify(location)
    return location if _REMOTE.fullmatch(location) else f"file://{location}"


def scheme_of(location: str) -> str:
    """Return the scheme that Spark uses for a path or URI: ``file``, ``s3a``, ``hdfs``."""
    return to_spark(location).partition(":")[0]


def relative_to(location: str, root: str) -> str:
    """Return the path of a qualified location relative to a qualified root.

    Raises:
        ValueError: the location is not below the root.
    """
    if not location.startswith(f"{root.rstrip('/')}/"):
        raise ValueError(f"{location!r} is not below {root!r}")
    return location[len(root.rstrip("/")) + 1 :]


def join(root: str, *parts: str) -> str:
    """Append path segments to a path or URI."""
    return "/".join([root.rstrip("/"), *parts])


def partition_value(path: str, key: str) -> str | None:
    """Return the value of a ``key=value`` partition folder in a path, or None without such a folder."""
    prefix = f"{key}="
    values = [part.removeprefix(prefix) for part in path.split("/")[:-1] if part.startswith(prefix)]
    return values[-1] if values else None


def open_filesystem(location: str) -> tuple[pafs.FileSystem, str]:
    """Return the file system of a path or URI, and the path within it.

    Raises:
        ConfigError: pyarrow does not support the scheme, or cannot set up the file system.
    """
    location = qualify(location)
    remote = _REMOTE.fullmatch(location)
    if remote is None:
        return pafs.LocalFileSystem(), location
    scheme = _TO_ARROW_SCHEME.get(remote["scheme"], remote["scheme"])
    filesystem, base = _open_remote(f"{scheme}://{remote['bucket']}")
    return filesystem, base.rstrip("/") + remote["path"]


@functools.lru_cache(maxsize=8)  # S3 setup needs network requests: do it once per bucket
def _open_remote(uri: str) -> tuple[pafs.FileSystem, str]:
    try:
        filesystem, base = pafs.FileSystem.from_uri(uri)
    except (ValueError, OSError) as error:
        raise ConfigError(f"cannot open {uri!r}: {error}") from error
    return filesystem, base


def exists(location: str) -> bool:
    """Return True if the path exists."""
    filesystem, path = open_filesystem(location)
    return bool(filesystem.get_file_info(path).type != pafs.FileType.NotFound)


def list_names(folder: str) -> list[str]:
    """Return the sorted names of everything directly in a folder; empty if the folder does not exist."""
    filesystem, base = open_filesystem(folder)
    return sorted(info.base_name for info in filesystem.get_file_info(pafs.FileSelector(base, allow_not_found=True)))


def list_folders(root: str) -> list[str]:
    """Return the sorted names of the direct subfolders of a folder; empty if the folder does not exist."""
    filesystem, base = open_filesystem(root)
    selector = pafs.FileSelector(base, allow_not_found=True)
    return sorted(info.base_name for info in filesystem.get_file_info(selector) if info.type == pafs.FileType.Directory)


def delete_folder(location: str) -> None:
    """Delete a folder and its contents."""
    filesystem, path = open_filesystem(location)
    filesystem.delete_dir(path)


def is_local(location: str) -> bool:
    """Return True for a path on a local disk."""
    return _REMOTE.fullmatch(qualify(location)) is None


def locate(root: str, path: str) -> str:
    """Return the location of a file from a root and a relative path that :mod:`cxrfeat.io.listing` has yielded."""
    return join(root, os.fsdecode(to_bytes(path)) if is_local(root) else path)


def check_folder(location: str) -> None:
    """Check that a folder exists.

    Raises:
        ConfigError: the path does not exist, is a file, or cannot be accessed.
    """
    _check_kind(location, pafs.FileType.Directory)


def check_file(location: str) -> None:
    """Check that a file exists.

    Raises:
        ConfigError: the path does not exist, is a folder, or cannot be accessed.
    """
    _check_kind(location, pafs.FileType.File)


@contextlib.contextmanager
def as_config_error(location: str) -> Iterator[None]:
    """Convert file system errors to ConfigError, for checks of the options before the work starts.

    Raises:
        ConfigError: no permission, no credentials, no network or an invalid name; the message gives the cause.
    """
    try:
        yield
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigError(f"cannot use {location!r}: {error}") from error


def _check_kind(location: str, expected: pafs.FileType) -> None:
    names = {pafs.FileType.File: "a file", pafs.FileType.Directory: "a folder"}
    filesystem, path = open_filesystem(location)
    with as_config_error(location):
        found = filesystem.get_file_info(path).type
    if found == pafs.FileType.NotFound:
        raise ConfigError(f"{location!r} does not exist; expected {names[expected]}")
    if found != expected:
        raise ConfigError(f"{location!r} is {names.get(found, 'neither file nor folder')}; expected {names[expected]}")


Stamp = tuple[int | None, int | None]
"""Size of a file in bytes and its time in nanoseconds; None for a file that does not exist."""


def stamp(location: str) -> Stamp:
    """Return the size and time of a file, by which a change shows."""
    if is_local(location):
        try:
            found = os.stat(qualify(location))  # noqa: PTH116 -- any name, any time
        except OSError:
            return None, None
        return found.st_size, found.st_mtime_ns
    filesystem, path = open_filesystem(location)
    info = filesystem.get_file_info(path)
    return info.size, info.mtime_ns


def open_input(location: str) -> pa.NativeFile:
    """Open a file for reading; ``size()`` of the result returns the length without reading the file.

    Raises:
        OSError: (FileNotFoundError, PermissionError, …) the file cannot be opened, or is not a regular file.
    """
    if is_local(location):
        return pa.PythonFile(open_local(qualify(location)), mode="r")
    filesystem, path = open_filesystem(location)
    return filesystem.open_input_file(path)


def open_stream(location: str, buffer: int = 4096) -> io.BufferedReader:
    """Open a file for reading through Python's own interface, with a buffer of the given number of bytes.

    Raises:
        OSError: see :func:`open_input`.
    """
    if is_local(location):
        return io.BufferedReader(open_local(qualify(location)), buffer)
    return io.BufferedReader(open_input(location), buffer)


def open_local(path: str) -> io.FileIO:
    """Open a regular local file for reading, without ever waiting for a FIFO's writer.

    Raises:
        OSError: the file cannot be opened; ENODEV if it is a FIFO or a device, ENXIO if it is a socket.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return io.FileIO(descriptor)
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "a folder; expected a regular file", path)
    kind = "a FIFO" if stat.S_ISFIFO(mode) else "a device"
    raise OSError(errno.ENODEV, f"{kind}; expected a regular file", path)


def quarantine_reason(error: OSError) -> Reason | None:
    """Return the quarantine reason of a file error, or None for an error that fails the job.

    Among the errors of S3, only a missing object has an errno. All others (denied access, expired credentials,
    throttling, …) may affect every object.
    """
    return None if error.errno is None else _REASON_OF_ERRNO.get(error.errno)


def is_s3_error(error: OSError) -> bool:
    """Return True for an error of S3; pyarrow's decoders also raise OSError without errno, but with other messages."""
    return "AWS Error" in str(error)


def read_bytes(location: str) -> bytes:
    """Return the content of a small file.

    Raises:
        OSError: see :func:`open_input`.
    """
    with open_input(location) as stream:
        return bytes(stream.read())


def read_text(location: str) -> str | None:
    """Return the text of a small UTF-8 file, or None if the file does not exist."""
    try:
        return read_bytes(location).decode()
    except FileNotFoundError:
        return None


def write_text(location: str, text: str) -> None:
    """Write a small UTF-8 file atomically; see :func:`write_bytes`."""
    write_bytes(location, text.encode())


def write_bytes(location: str, content: bytes) -> None:
    """Write a small file atomically: readers see either the old content or the new content."""
    filesystem, path = open_filesystem(location)
    target = PurePosixPath(path)
    filesystem.create_dir(str(target.parent), recursive=True)
    temporary = str(target.with_name(f".{target.name}.tmp"))
    with filesystem.open_output_stream(temporary) as stream:
        stream.write(content)
    if is_local(location):
        _flush_to_disk(temporary)
    filesystem.move(temporary, path)


def _flush_to_disk(path: str) -> None:
    """Force the contents of a local file to disk, so that a power failure does not leave an empty file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
