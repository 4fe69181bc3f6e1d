"""Exit codes of all commands, and one-line error messages in place of tracebacks."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from cxrfeat import NOTICE
from cxrfeat.errors import CxrfeatError, OutputLockedError

DONE = 0

FAILED = 1
"""Failure during the run."""

INVALID_INPUT = 2
"""Invalid options or input; argparse exits with the same code."""

TOO_MANY_QUARANTINED = 3
"""Done, but the quarantine exceeds the allowed share."""

TOO_MANY_UNMATCHED = 4
"""Done, but more images than allowed are without metadata, or more metadata lines than allowed are rejected."""

ALREADY_RUNNING = 5
"""Another job works on the same output."""

INTERRUPTED = 130
"""Ctrl-C: 128 plus the number of SIGINT, the convention of shells."""

TERMINATED = 143
"""SIGTERM, as Kubernetes, Slurm and ``docker stop`` send it: 128 plus its number."""


def epilog(meanings: Mapping[int, str]) -> str:
    """Return the end of a command's ``--help``: its exit codes and the notice.

    Args:
        meanings: exit code → description, in addition to the default descriptions or instead of them.
    """
    defaults = {DONE: "done", FAILED: "failed during the run", INVALID_INPUT: "invalid options or input"}
    lines = [f"  {code:<4} {meaning}" for code, meaning in sorted({**defaults, **meanings}.items())]
    return "\n".join(["exit codes:", *lines, "", NOTICE])


class Terminated(KeyboardInterrupt):
    """SIGTERM, handled like Ctrl-C."""


class ReportedInterrupt(KeyboardInterrupt):
    """KeyboardInterrupt whose message :func:`report_interrupts` has already printed."""


def report_interrupts(interrupted: str) -> None:
    """Install a SIGINT handler that prints a message immediately and then raises :class:`ReportedInterrupt`.

    For commands whose stderr may be closed a moment after Ctrl-C.

    Args:
        interrupted: message, as in :func:`run`.
    """

    def report(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # print is not reentrant, and the signal may have interrupted one.
        os.write(sys.stderr.fileno(), f"\ninterrupted: {interrupted}\n".encode())
        raise ReportedInterrupt

    signal.signal(signal.SIGINT, report)


def run(command: Callable[[], int], *, interrupted: str) -> int:
    """Run a command and return its exit code; known errors become one line on stderr, all others propagate.

    Args:
        command: function that does the work and returns an exit code.
        interrupted: message for Ctrl-C and SIGTERM that states what is left of the run.
    """
    before = _handle_termination()
    try:
        return command()
    except CxrfeatError as error:
        print(f"error: {error}", file=sys.stderr)
        if isinstance(error, OutputLockedError):
            return ALREADY_RUNNING
        return FAILED if isinstance(error, RuntimeError) else INVALID_INPUT
    except OSError as error:  # for example a full disk or a lost network share
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt as error:
        if not isinstance(error, ReportedInterrupt):
            print(f"{'terminated' if isinstance(error, Terminated) else 'interrupted'}: {interrupted}", file=sys.stderr)
        return interrupt_code()
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


_received: list[int] = []
"""Signals of this process that :func:`_handle_termination` has turned into an exception."""


def interrupt_code() -> int:
    """Return the exit code of a command that an interrupt has ended: that of SIGTERM if it was received."""
    return TERMINATED if signal.SIGTERM in _received else INTERRUPTED


def _handle_termination() -> Any:
    """Turn the first SIGTERM into an exception in the main thread; return the handler before, None in other threads.

    A second SIGTERM ends the process.
    """
    if threading.current_thread() is not threading.main_thread():
        return None  # only the main thread may set handlers

    def terminate(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _received.append(signal.SIGTERM)
        raise Terminated

    return signal.signal(signal.SIGTERM, terminate)


def run_after(command: Callable[[], object], *, safe: str) -> int:
    """Run a step that follows the main work, such as writing a report, and return its exit code.

    The results of the main work are already saved, so every known error returns FAILED, even invalid input.

    Args:
        command: function to run.
        safe: start of the error message: the saved results and the missing ones.
    """
    try:
        command()
    except (CxrfeatError, OSError) as error:
        print(f"error: {safe}: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt as error:
        print(f"interrupted: {safe}", file=sys.stderr)
        return TERMINATED if isinstance(error, Terminated) else INTERRUPTED
    return DONE
