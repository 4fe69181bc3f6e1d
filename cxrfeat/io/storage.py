"""Files by path or URI: local disk, S3, HDFS, GCS, whatever pyarrow's file systems reach.

Executors read images through this module, so pixels never pass through the JVM. Spark says ``s3a://`` and
pyarrow ``s3://`` for the same thing: both are understood, and ``s3a://`` is what we write down.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pafs

from cxrfeat.errors import ConfigError
from cxrfeat.io.schema import Reason

_REASON_OF_ERRNO = {
    errno.ENOENT: Reason.MISSING,
    errno.ENOTDIR: Reason.MISSING,  # a folder of its path has become a file
    errno.EACCES: Reason.UNREADABLE,
    errno.EPERM: Reason.UNREADABLE,
    errno.EIO: Reason.UNREADABLE,
    errno.EISDIR: Reason.UNREADABLE,
    errno.ELOOP: Reason.UNREADABLE,
}
"""File errors that belong to the file. Any other (network, out of handles, …) belongs to the job and fails it."""

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
    # ".." is resolved by name, as Hadoop does it, so that Spark's paths start with ours; Path.resolve follows links.
    return os.path.abspath(Path(location).expanduser())  # noqa: PTH100


def from_spark(uri: str) -> str:
    """Turn a URI as Spark logs it, percent-encoded, into the form of :func:`qualify`."""
    uri = unquote(uri)
    if uri.startswith("file:"):
        return "/" + uri.removeprefix("file:").strip("/")
    return uri


def to_spark(location: str) -> str:
    """Turn a path or URI into what Spark must be given: without a scheme it would look on the cluster's default."""
    location = qualify(location)
    return location if _REMOTE.fullmatch(location) else f"file://{location}"


def scheme_of(location: str) -> str:
    """Return the scheme of a path or URI as Spark knows it: ``file``, ``s3a``, ``hdfs``."""
    return to_spark(location).partition(":")[0]


def relative_to(location: str, root: str) -> str:
    """Return a qualified location's path below a qualified root.

    Raises:
        ValueError: it is not below the root.
    """
    if not location.startswith(f"{root.rstrip('/')}/"):
        raise ValueError(f"{location!r} is not below {root!r}")
    return location[len(root.rstrip("/")) + 1 :]


def join(root: str, *parts: str) -> str:
    """Append path segments to a path or URI."""
    return "/".join([root.rstrip("/"), *parts])


def partition_value(path: str, key: str) -> str | None:
    """Return the value of a ``key=value`` folder in a path, as Spark writes partitions; None where there is none."""
    prefix = f"{key}="
    values = [part.removeprefix(prefix) for part in path.split("/")[:-1] if part.startswith(prefix)]
    return values[-1] if values else None


def open_filesystem(location: str) -> tuple[pafs.FileSystem, str]:
    """Return the file system of a path or URI, and the path inside it.

    Raises:
        ConfigError: a scheme that pyarrow does not know, or a file system that can't be set up.
    """
    location = qualify(location)
    remote = _REMOTE.fullmatch(location)
    if remote is None:
        return pafs.LocalFileSystem(), location
    scheme = _TO_ARROW_SCHEME.get(remote["scheme"], remote["scheme"])
    filesystem, base = _open_remote(f"{scheme}://{remote['bucket']}")
    return filesystem, base.rstrip("/") + remote["path"]


@functools.lru_cache(maxsize=8)  # setting up S3 asks the network; once a bucket is enough
def _open_remote(uri: str) -> tuple[pafs.FileSystem, str]:
    try:
        filesystem, base = pafs.FileSystem.from_uri(uri)
    except (ValueError, OSError) as error:
        raise ConfigError(f"{uri!r} can't be opened: {error}") from error
    return filesystem, base


def exists(location: str) -> bool:
    """Say whether there is a file or folder."""
    filesystem, path = open_filesystem(location)
    return bool(filesystem.get_file_info(path).type != pafs.FileType.NotFound)


def list_files(root: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    """Yield the files below a folder that Spark's file stream sees too, as paths relative to the folder.

    That is every file at any depth whose name ends in one of ``suffixes`` (lower case; the name's case does not
    matter), but nothing that is hidden or still being copied by Hadoop's rules.

    Raises:
        ConfigError: the folder does not exist, is not a folder, or can't be listed.
    """
    _check_kind(root, pafs.FileType.Directory)
    filesystem, base = open_filesystem(root)
    with refusing(root):
        infos = filesystem.get_file_info(pafs.FileSelector(base, recursive=True))
    for info in infos:
        relative = PurePosixPath(relative_to(info.path, base))
        hidden = any(_is_hidden(part) for part in relative.parts)
        if info.type == pafs.FileType.File and not hidden and relative.suffix.lower() in suffixes:
            yield str(relative)


def list_folders(root: str) -> list[str]:
    """Return the names of the folders right below a folder, sorted; none where there is no such folder."""
    filesystem, base = open_filesystem(root)
    selector = pafs.FileSelector(base, allow_not_found=True)
    return sorted(info.base_name for info in filesystem.get_file_info(selector) if info.type == pafs.FileType.Directory)


def delete_folder(location: str) -> None:
    """Delete a folder and all that is in it."""
    filesystem, path = open_filesystem(location)
    filesystem.delete_dir(path)


def _is_hidden(name: str) -> bool:
    """Spark's rule, org.apache.spark.util.HadoopFSUtils.shouldFilterOutPathName."""
    return name.startswith(".") or (name.startswith("_") and "=" not in name) or name.endswith("._COPYING_")


def check_file(location: str) -> None:
    """Check that there is a file.

    Raises:
        ConfigError: there is none, it is a folder, or nobody may tell us.
    """
    _check_kind(location, pafs.FileType.File)


@contextlib.contextmanager
def refusing(location: str) -> Iterator[None]:
    """Turn an error of a file system into one of the options: for what is tried before any work is done.

    Raises:
        ConfigError: no permission, no credentials, no network, a name that can't be; the message says which.
    """
    try:
        yield
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigError(f"{location!r} can't be used: {error}") from error


def _check_kind(location: str, expected: pafs.FileType) -> None:
    names = {pafs.FileType.NotFound: "not there", pafs.FileType.File: "a file", pafs.FileType.Directory: "a folder"}
    filesystem, path = open_filesystem(location)
    with refusing(location):
        found = filesystem.get_file_info(path).type
    if found != expected:
        raise ConfigError(f"{location!r} is {names.get(found, 'neither file nor folder')}; expected {names[expected]}")


def open_input(location: str) -> pa.NativeFile:
    """Open a file for reading; ``size()`` tells its length before a byte is read.

    Raises:
        OSError: (FileNotFoundError, PermissionError, …) it can't be opened.
    """
    filesystem, path = open_filesystem(location)
    return filesystem.open_input_file(path)


def reason_of(error: OSError) -> Reason | None:
    """Return why a file goes into quarantine, or None for an error that is not the file's own.

    An object that is not there is missing. All else that S3 refuses (access, expired credentials, throttling, …) has no
    number and may concern every object: it fails the job.
    """
    return None if error.errno is None else _REASON_OF_ERRNO.get(error.errno)


def is_of_s3(error: OSError) -> bool:
    """Say whether S3 itself refused: pyarrow's decoders raise OSError without a number too, but in other words."""
    return "AWS Error" in str(error)


def read_bytes(location: str) -> bytes:
    """Read a small file.

    Raises:
        OSError: as :func:`open_input`.
    """
    with open_input(location) as stream:
        return bytes(stream.read())


def read_text(location: str) -> str | None:
    """Read a small UTF-8 file, or return None where there is none."""
    try:
        return read_bytes(location).decode()
    except FileNotFoundError:
        return None


def write_text(location: str, text: str) -> None:
    """Write a small UTF-8 file so that a reader sees the old content or the new one, never a part."""
    filesystem, path = open_filesystem(location)
    target = PurePosixPath(path)
    filesystem.create_dir(str(target.parent), recursive=True)
    temporary = str(target.with_name(f".{target.name}.tmp"))
    with filesystem.open_output_stream(temporary) as stream:
        stream.write(text.encode())
    filesystem.move(temporary, path)
