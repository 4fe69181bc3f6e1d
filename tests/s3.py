"""Local S3 server (moto) in a separate process, for tests that need the real protocol."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from cxrfeat.io import storage

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "tester",
    "AWS_SECRET_ACCESS_KEY": "secret-of-the-tests",
    "AWS_REGION": "eu-central-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""Usual environment variables without the endpoint. The server accepts any credentials, except in :func:`locked`."""

_ADDRESS = re.compile(r"Running on (http://\S+)")


def find_server() -> Path | None:
    """Return the program beside the interpreter, or None; PATH may have moto 5.2.1, which fails with pyarrow."""
    program = Path(sys.executable).with_name("moto_server")
    return program if program.exists() else None


@contextlib.contextmanager
def serve(program: Path, log: Path) -> Iterator[str]:
    """Start a server on a free port and yield its URL; it ends with the context. The URL is read from its log."""
    command = [str(program), "--host", "127.0.0.1", "--port", "0"]
    with log.open("w") as stream, subprocess.Popen(command, stdout=stream, stderr=stream) as process:
        try:
            while not (found := _ADDRESS.search(log.read_text())):
                assert process.poll() is None, f"{program} ended with {process.returncode}:\n{log.read_text()}"
                time.sleep(0.05)
            yield found[1]
        finally:
            process.terminate()


def make_bucket(endpoint: str, name: str) -> None:
    """Create a bucket, which needs no credentials here."""
    _request(f"{endpoint}/{name}", "PUT")


def put(location: str, data: bytes = b"x") -> None:
    """Write an object."""
    filesystem, path = storage.open_filesystem(location)
    with filesystem.open_output_stream(path) as stream:
        stream.write(data)


def upload(folder: Path, location: str) -> None:
    """Write all files below a local folder, under the same names."""
    for path in filter(Path.is_file, folder.rglob("*")):
        put(storage.join(location, path.relative_to(folder).as_posix()), path.read_bytes())


@contextlib.contextmanager
def locked(endpoint: str) -> Iterator[None]:
    """Reject all credentials within the context."""
    _request(f"{endpoint}/moto-api/reset-auth", "POST", b"0")
    try:
        yield
    finally:
        _request(f"{endpoint}/moto-api/reset-auth", "POST", b"inf")


def _request(url: str, method: str, data: bytes | None = None) -> None:
    # Without a type urllib sends data as a form, and moto would parse it as one.
    request = urllib.request.Request(url, data, {"Content-Type": "text/plain"}, method=method)
    with urllib.request.urlopen(request, timeout=30):
        pass
