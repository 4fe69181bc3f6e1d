"""Fake ``nvidia-smi`` for machines without a GPU."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path


def lines(count: int) -> list[str]:
    """Return the output of nvidia-smi for the query index, uuid, mig.mode.current."""
    return [f"{index}, GPU-{index:x}1d0c5e0-d72c-4106-c12f-20bd9faed9f6, Disabled" for index in range(count)]


def install(folder: Path, answer: Sequence[str], exit_code: int = 0) -> Path:
    """Write an ``nvidia-smi`` that prints these lines and accepts only the query of the script."""
    folder.mkdir(parents=True, exist_ok=True)
    smi = folder / "nvidia-smi"
    text = "".join(f"{line}\n" for line in answer)
    smi.write_text(
        "#!/bin/sh\n"
        'test "$*" = "--query-gpu=index,uuid,mig.mode.current --format=csv,noheader" || '
        '{ echo "unexpected query: $*"; exit 2; }\n'
        f"printf %s {shlex.quote(text)}\n"
        f"exit {exit_code}\n"
    )
    smi.chmod(0o755)
    return smi
