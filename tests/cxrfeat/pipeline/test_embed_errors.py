"""Tests of errors in the worker function: quarantine or failure, no threads left running, bounded read-ahead."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from cxrfeat.io import storage
from cxrfeat.io.schema import Reason
from cxrfeat.pipeline import embed
from cxrfeat.pipeline.embed import embed_batches
from tests import fakes

IMAGE = fakes.png(fakes.gray_image())
NAMES = [f"{letter}.png" for letter in "abcdefgh"]

OnOpening = Callable[[Callable[[str], object]], None]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("images")
    for name in NAMES:
        (folder / name).write_bytes(IMAGE)
    return str(folder)


@pytest.fixture
def on_opening(monkeypatch: pytest.MonkeyPatch) -> OnOpening:
    """Return a function that sets an action to run with the name of each file before it is opened."""

    def patch(action: Callable[[str], object]) -> None:
        real = storage.open_input

        def open_input(location: str) -> pa.NativeFile:
            action(location.rsplit("/", 1)[-1])
            return real(location)

        monkeypatch.setattr(storage, "open_input", open_input)

    return patch


def run(
    root: str, names: list[str], encoder: fakes.FakeEncoder | None = None, threads: int = 1
) -> list[dict[str, Any]]:
    """Embed files; return the rows."""
    batches = fakes.handles(names)
    made = embed_batches(batches, encoder=encoder or fakes.FakeEncoder(), root=root, decode_threads=threads)
    return [row for batch in made for row in batch.to_pylist()]


def decoders() -> list[str]:
    """Return the names of the decoding threads that are alive."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("decode")]


def raiser(name: str, error: Exception) -> Callable[[str], None]:
    def raise_at(opened: str) -> None:
        if opened == name:
            raise error

    return raise_at


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "denied"),
        OSError(errno.EIO, "bad sector"),
        OSError(errno.ELOOP, "links in a loop"),
    ],
)
def test_a_file_that_cannot_be_read_is_in_quarantine(root: str, error: OSError, on_opening: OnOpening) -> None:
    """An error in one file quarantines that file with the system's message; the others are embedded."""
    on_opening(raiser("b.png", error))
    rows = run(root, NAMES)
    assert (rows[1]["reason"], rows[1]["message"], rows[1]["sha256"]) == (Reason.UNREADABLE, str(error), None)
    assert [row["image_path"] for row in rows if row["status"] == "ok"] == ["a.png", *NAMES[2:]]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "disk full"),
        OSError(errno.EMFILE, "too many open files"),
        OSError("the network, without a number"),
        ConnectionResetError(errno.ECONNRESET, "reset"),
        RuntimeError("anything else"),
        MemoryError(),
    ],
)
def test_an_error_that_is_not_the_files_fails_the_job(root: str, error: Exception, on_opening: OnOpening) -> None:
    """What is unknown is loud: it is raised as it is, and no thread stays behind."""
    on_opening(raiser("g.png", error))
    with pytest.raises(type(error)) as raised:
        run(root, NAMES, threads=2)
    assert raised.value is error
    assert decoders() == []


def test_a_file_that_is_too_large_is_not_read(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file above MAX_FILE_BYTES is quarantined unread; the message gives its size. The limit itself is allowed."""
    monkeypatch.setattr(embed, "MAX_FILE_BYTES", len(IMAGE) - 1)
    (row,) = run(root, ["a.png"])
    assert (row["reason"], row["sha256"]) == (Reason.TOO_LARGE, None)
    assert f"{len(IMAGE)} bytes; the limit is {len(IMAGE) - 1}" in row["message"]
    monkeypatch.setattr(embed, "MAX_FILE_BYTES", len(IMAGE))
    assert run(root, ["a.png"])[0]["status"] == "ok"


def test_an_error_of_the_network_ends_everything(root: str) -> None:
    """An error of the network fails the job and ends the decoding threads."""

    class Broken(fakes.FakeEncoder):
        def embed(self, inputs: fakes.Gray8) -> NDArray[np.float32]:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        run(root, NAMES, Broken(batch_size=1), threads=3)
    assert decoders() == []


def test_a_consumer_that_stops_ends_everything(root: str) -> None:
    """Spark may drop the iterator early, for example for a LIMIT; this ends the decoding threads."""
    made = embed_batches(fakes.handles(NAMES), encoder=fakes.FakeEncoder(batch_size=1), root=root, decode_threads=3)
    next(made)
    assert decoders()
    del made
    assert decoders() == []


def test_the_input_is_not_read_ahead_as_a_whole(root: str, on_opening: OnOpening) -> None:
    """At most two batches of a long input wait decoded, so that memory does not grow with the partition."""
    opened: list[str] = []
    read: list[pa.RecordBatch] = []
    on_opening(opened.append)

    def watched() -> Iterator[pa.RecordBatch]:
        for batch in fakes.handles(["a.png"] * 100, 1):
            read.append(batch)
            yield batch

    made = embed_batches(watched(), encoder=fakes.FakeEncoder(batch_size=2), root=root, decode_threads=2)
    assert next(made).num_rows == 2
    assert len(opened) <= len(read) <= 3 * 2
    assert sum(batch.num_rows for batch in made) == 98
    assert len(opened) == 100


def test_files_are_decoded_while_the_network_computes(root: str, on_opening: OnOpening) -> None:
    """The second file is opened before the network finishes the first batch, which waits for it here."""
    second = threading.Event()
    on_opening(lambda name: second.set() if name == "b.png" else None)

    class Waiting(fakes.FakeEncoder):
        def embed(self, inputs: fakes.Gray8) -> NDArray[np.float32]:
            assert second.wait(timeout=30), "nothing was read ahead"
            return super().embed(inputs)

    assert len(run(root, NAMES, Waiting(batch_size=1))) == len(NAMES)


def test_decode_threads_work_at_the_same_time(root: str, on_opening: OnOpening) -> None:
    """Two decode threads open two files concurrently; each waits for the other here."""
    both = threading.Barrier(2, timeout=30)
    on_opening(lambda name: both.wait())
    assert len(run(root, NAMES, threads=2)) == len(NAMES)
