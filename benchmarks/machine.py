"""Shared parts of the benchmarks: options, description of the machine, memory of a process tree."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import psutil
import torch

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results.json"
CORES = os.cpu_count() or 1
MIB = 2**20
_POLL_S = 0.5
_LIBRARIES = ("torch", "torchvision", "pyspark", "pyarrow", "scikit-learn", "ray", "daft")


def option_parser(
    description: str | None,
    *,
    images: int | None = None,
    repeats: int = 3,
    part: str | None = None,
    engines: bool = False,
) -> argparse.ArgumentParser:
    """Return a parser of the options that benchmarks share.

    Args:
        description: the module's docstring.
        images: default of ``--count``; None leaves out the options of benchmarks that read images.
        repeats: default of ``--repeats``.
        engines: whether to add the options of further engines.
        part: name of the results in ``results.json``; None leaves out ``--save``.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    if images is not None:
        parser.add_argument("--images", type=Path, required=True, help="folder of X-rays or phantoms")
        parser.add_argument("--weights", default="random", help="file or name (default: an untrained network)")
        parser.add_argument("--backbone", default="resnet50")
        parser.add_argument("--count", type=int, default=images, help=f"number of images (default {images})")
    parser.add_argument("--repeats", type=int, default=repeats, help=f"default {repeats}")
    if engines:
        parser.add_argument("--openvino", action="store_true", help="measure the engine openvino too")
        parser.add_argument("--int8", type=Path, metavar="FILE", help="measure the output of 'cxrfeat quantize' too")
    if part is not None:
        text = f"store the numbers as {part!r} (default FILE: benchmarks/results.json)"
        parser.add_argument("--save", type=Path, nargs="?", const=RESULTS, metavar="FILE", help=text)
    return parser


def describe(device: torch.device | None = None) -> str:
    """Return the CPU model, the number of cores, the memory, and the GPU if ``device`` is one."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    gpu = f", {torch.cuda.get_device_name(device)}" if device is not None and device.type == "cuda" else ""
    return f"{model}, {CORES} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB{gpu}"


def versions() -> str:
    """Return the versions of Python and of the libraries that are installed."""
    installed = {found.metadata["Name"].lower(): found.version for found in metadata.distributions()}
    names = [f"{name} {installed[name]}" for name in _LIBRARIES if name in installed]
    return ", ".join([f"Python {platform.python_version()}", *names])


def wait_for(device: torch.device) -> None:
    """Block until the device has finished its work; CPUs never have work pending."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def run_and_watch(command: Sequence[str], environment: Mapping[str, str]) -> float:
    """Run a command in the repository; return the peak memory of its processes in MiB, shared pages counted once.

    Raises:
        subprocess.CalledProcessError: the exit code is not 0; the output is printed first.
    """
    # spark-submit, and the Python that it looks for, are those of this interpreter's environment.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = {**os.environ, "PATH": path, **environment}
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        peak = 0.0
        while True:
            try:
                output, _ = process.communicate(timeout=_POLL_S)
                break
            except subprocess.TimeoutExpired:
                peak = max(peak, _tree_mib(psutil.Process(process.pid)))
    if process.returncode != 0:
        print(output.decode(errors="replace"))
        raise subprocess.CalledProcessError(process.returncode, command)
    return peak


def _tree_mib(root: psutil.Process) -> float:
    """Return the proportional set size of a process and its descendants."""
    total = 0
    for member in [root, *root.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # ended since it was listed
            total += member.memory_full_info().pss
    return total / MIB
