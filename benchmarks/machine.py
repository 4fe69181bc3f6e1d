"""The machine that a figure was measured on, and the peak memory of a command's processes."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil
import torch

_POLL_S = 0.5
_MIB = 2**20


@dataclass
class Peak:
    """Highest proportional set sizes seen, in MiB.

    Attributes:
        jvm: of the Java process.
        driver: of the Python process that Spark's JVM started first.
        worker: of the largest other Python process.
        tree: of all processes together, at one moment.
    """

    jvm: float = 0.0
    driver: float = 0.0
    worker: float = 0.0
    tree: float = 0.0


def describe() -> str:
    """Name the machine by its parts: CPU model, memory."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return f"{model}, {os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB"


def describe_device(device: torch.device) -> str:
    """Name the machine, and the GPU if the device is one."""
    gpu = f", {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    return describe() + gpu


def wait_for(device: torch.device) -> None:
    """Wait until a device has done what it was asked to; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


_LIBRARIES = ("torch", "torchvision", "pyspark", "pyarrow", "scikit-learn", "ray", "daft", "openvino")


def versions() -> str:
    """Name the versions that a figure depends on; what is not installed is left out."""
    installed = {found.metadata["Name"].lower(): found.version for found in metadata.distributions()}
    names = [f"{name} {installed[name]}" for name in _LIBRARIES if name in installed]
    return ", ".join([f"Python {platform.python_version()}", *names])


def run_and_watch(command: Sequence[str], *, cwd: Path, environment: Mapping[str, str] | None = None) -> Peak:
    """Run a command to its end and return the peak memory of its processes.

    Raises:
        subprocess.CalledProcessError: it did not exit with 0; its output is printed.
    """
    with subprocess.Popen(
        command, cwd=cwd, env={**os.environ, **(environment or {})}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        peak = Peak()
        while True:
            try:
                output, _ = process.communicate(timeout=_POLL_S)
                break
            except subprocess.TimeoutExpired:
                _raise_to(peak, psutil.Process(process.pid))
    if process.returncode != 0:
        print(output.decode(errors="replace"))
        raise subprocess.CalledProcessError(process.returncode, command)
    return peak


def _raise_to(peak: Peak, root: psutil.Process) -> None:
    tree, driver = 0.0, None
    for member in [root, *root.children(recursive=True)]:
        try:
            name, size = member.name(), member.memory_full_info().pss / _MIB
        except psutil.NoSuchProcess:  # ended since it was listed
            continue
        tree += size
        if name == "java":
            peak.jvm = max(peak.jvm, size)
        elif driver is None and name.startswith("python"):
            driver = member
            peak.driver = max(peak.driver, size)
        else:
            peak.worker = max(peak.worker, size)
    peak.tree = max(peak.tree, tree)
