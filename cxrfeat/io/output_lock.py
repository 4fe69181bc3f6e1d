"""Lock of an output folder: one job at a time writes to it.

On a local disk the operating system holds the lock, and drops it with the process, however that ends. On an object
store the lock is a small object that its owner renews; one that was not renewed for two minutes is stale.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from cxrfeat.errors import ConfigError, OutputLockedError
from cxrfeat.io import storage
from cxrfeat.io.round_log import CHECKPOINT

_LOG = logging.getLogger(__name__)

NAME = "lock.json"

RENEWAL_S = 30.0
STALE_S = 120.0
"""Seconds between two renewals of a lock on an object store, and after which it is stale."""


@contextlib.contextmanager
def hold_output(output: str) -> Iterator[None]:
    """Hold the lock of an output folder.

    Args:
        output: qualified location of the folder, which may not exist yet.

    Raises:
        OutputLockedError: another job is at work on it; the message says which, where and since when.
        ConfigError: the folder is not writable.
    """
    location = storage.join(output, CHECKPOINT, NAME)
    with storage.as_config_error(output):
        context = _hold_file(output, location) if storage.is_local(output) else _hold_object(output, location)
    with context:
        yield


def _describe() -> dict[str, str | int]:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": now}


def _refuse(output: str, text: str) -> OutputLockedError:
    try:
        owner = json.loads(text)
        who = f"process {owner['pid']} on {owner['host']}, since {owner['since']}"
    except (ValueError, KeyError, TypeError):
        who = "an unknown process"
    return OutputLockedError(f"another job is at work on {output}: {who}; wait until it ends, or stop it")


@contextlib.contextmanager
def _hold_file(output: str, location: str) -> Iterator[None]:
    path = Path(storage.open_filesystem(location)[1])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ConfigError(f"cannot write to {output}: {error.strerror}") from error
    with os.fdopen(descriptor, "r+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _refuse(output, stream.read()) from None
        except OSError as error:  # as on some network shares
            _LOG.warning("warning: %s cannot be locked: %s; start no second job on it", output, error.strerror)
        stream.truncate(0)
        json.dump(_describe(), stream)
        stream.flush()
        yield


@contextlib.contextmanager
def _hold_object(output: str, location: str) -> Iterator[None]:
    text = storage.read_text(location)
    if text is not None and time.time() - _renewed(text) < STALE_S:
        raise _refuse(output, text)
    owner = _describe()
    ended = threading.Event()

    def renew() -> None:
        while True:
            storage.write_text(location, json.dumps({**owner, "renewed": time.time()}))
            if ended.wait(RENEWAL_S):
                return

    storage.write_text(location, json.dumps({**owner, "renewed": time.time()}))
    thread = threading.Thread(target=renew, name="lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        storage.write_text(location, json.dumps({**owner, "renewed": 0}))


def _renewed(text: str) -> float:
    try:
        return float(json.loads(text)["renewed"])
    except (ValueError, KeyError, TypeError):
        return 0.0
