"""One job at a time works on an output; a lock never outlives its job."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cxrfeat.errors import ConfigError, OutputLockedError
from cxrfeat.io import output_lock, storage
from cxrfeat.io.output_lock import hold_output

HOLD = """
import sys, time
from cxrfeat.io.output_lock import hold_output
with hold_output(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_job_is_told_who_works(tmp_path: Path) -> None:
    """The message has the process, the machine and the time; after the first job, the output is free."""
    output = storage.qualify(str(tmp_path / "out"))
    said = rf"process {os.getpid()} on .*, since 20.*T.*; wait"
    with hold_output(output), pytest.raises(OutputLockedError, match=said), hold_output(output):
        pass
    with hold_output(output):
        pass


def test_a_killed_job_leaves_no_lock(tmp_path: Path) -> None:
    """The lock of a process that is killed is free at once."""
    output = storage.qualify(str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", HOLD, output], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(OutputLockedError, match=str(process.pid)), hold_output(output):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    with hold_output(output):
        pass


def test_a_folder_that_is_not_writable_is_named(tmp_path: Path) -> None:
    """The error is that of the output, not of the lock."""
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ConfigError, match="out"), hold_output(storage.qualify(str(tmp_path / "out"))):
        pass


def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The job works, and the log says what cannot be prevented."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with hold_output(storage.qualify(str(tmp_path))):
        assert "cannot be locked: No locks available; start no second job" in caplog.text


def test_a_lock_on_an_object_store_is_renewed(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the job lives its lock is young; one that was not renewed in time is stale."""
    monkeypatch.setattr(output_lock, "RENEWAL_S", 0.1)
    output = f"{bucket}/out"
    location = f"{output}/_checkpoint/lock.json"
    with hold_output(output):
        first = json.loads(storage.read_text(location) or "")
        with pytest.raises(OutputLockedError, match=str(os.getpid())), hold_output(output):
            pass
        deadline = time.monotonic() + 20
        while json.loads(storage.read_text(location) or "") == first:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    storage.write_text(location, json.dumps({**first, "renewed": time.time() - output_lock.STALE_S - 1}))
    with hold_output(output):
        pass
