"""How every command of the project ends: a code that scripts can read, and one line where something was wrong."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping

from cxrfeat import NOTICE
from cxrfeat.errors import CxrfeatError

DONE = 0

FAILED = 1
"""Something went wrong on the way."""

UNUSABLE = 2
"""Options or input that can't be used; argparse's code too."""

TOO_MANY_QUARANTINED = 3
"""Done, but more is in quarantine than was allowed."""

INTERRUPTED = 130
"""Ctrl-C: 128 and the number of SIGINT, as shells count."""


def epilog(meanings: Mapping[int, str]) -> str:
    """Return the end of a command's ``--help``: its exit codes, and what it is not for.

    Args:
        meanings: what a code means here, where that is more than the obvious.
    """
    known = {DONE: "done", FAILED: "failed on the way", UNUSABLE: "options or input that can't be used"}
    lines = [f"  {code:<4} {meaning}" for code, meaning in sorted({**known, **meanings}.items())]
    return "\n".join(["exit codes:", *lines, "", NOTICE])


class AnsweredInterrupt(KeyboardInterrupt):
    """Ctrl-C after :func:`answer_interrupts`: what it leaves has been said."""


def answer_interrupts(interrupted: str) -> None:
    """Let Ctrl-C say at once what it leaves, and only then raise: for a command whose output may be gone a moment later.

    Args:
        interrupted: as for :func:`run`.
    """

    def answer(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # Not print: the signal may have come in the middle of one, which can't be entered twice.
        os.write(sys.stderr.fileno(), f"\ninterrupted: {interrupted}\n".encode())
        raise AnsweredInterrupt

    signal.signal(signal.SIGINT, answer)


def run(command: Callable[[], int], *, interrupted: str) -> int:
    """Run a command and return its exit code; what is wrong is one line on stderr, but for a bug, which is raised.

    Args:
        command: does the work, and returns the code of its own end.
        interrupted: what Ctrl-C leaves, in words.
    """
    try:
        return command()
    except CxrfeatError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED if isinstance(error, RuntimeError) else UNUSABLE
    except OSError as error:  # a full disk, a network share that has gone
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except AnsweredInterrupt:
        return INTERRUPTED
    except KeyboardInterrupt:
        print(f"interrupted: {interrupted}", file=sys.stderr)
        return INTERRUPTED


def run_after(command: Callable[[], object], *, safe: str) -> int:
    """Run what follows a command whose work is safe already: whatever goes wrong now is a failure on the way.

    Args:
        command: such as writing a report.
        safe: what there is, and what will be missing, in words.
    """
    try:
        command()
    except (CxrfeatError, OSError) as error:
        print(f"error: {safe}: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"interrupted: {safe}", file=sys.stderr)
        return INTERRUPTED
    return DONE
