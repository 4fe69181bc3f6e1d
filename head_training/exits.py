"""How the commands of this package end; 0 is done. A module of its own, so that a report needs no torch for it."""

from __future__ import annotations

FAILED = 1
"""Something went wrong on the way."""

UNUSABLE = 2
"""Options or input that can't be used; argparse's code too."""

INTERRUPTED = 130
"""Ctrl-C: 128 and the number of SIGINT, as shells count."""
