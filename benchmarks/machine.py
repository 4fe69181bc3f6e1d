"""The machine that a figure was measured on, and a process tree's peak memory."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

_POLL_S = 0.25


def describe() -> str:
    """Name the machine by its parts: CPU model, memory."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return f"{model}, {psutil.virtual_memory().total / 2**30:.0f} GiB"


def run_and_watch(command: Sequence[str], *, cwd: Path, environment: Mapping[str, str] | None = None) -> float:
    """Run a command to its end and return the peak memory of its process tree in GiB, shared pages counted once.

    Raises:
        subprocess.CalledProcessError: it did not exit with 0; its output is printed.
    """
    with subprocess.Popen(
        command, cwd=cwd, env={**os.environ, **(environment or {})}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        peak = 0.0
        while True:
            try:
                output, _ = process.communicate(timeout=_POLL_S)
                break
            except subprocess.TimeoutExpired:
                peak = max(peak, _tree_memory(process.pid))
    if process.returncode != 0:
        print(output.decode(errors="replace"))
        raise subprocess.CalledProcessError(process.returncode, command)
    return peak


def _tree_memory(pid: int) -> float:
    total = 0
    try:
        root = psutil.Process(pid)
        for member in [root, *root.children(recursive=True)]:
            try:
                total += member.memory_full_info().pss
            except psutil.NoSuchProcess:
                continue
    except psutil.NoSuchProcess:
        return 0.0
    return total / 2**30
