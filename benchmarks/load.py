"""Loading of embeddings against ``pyarrow.parquet.read_table``, and the peak memory of both, and of a whole fit.

    python -m benchmarks.load [--rows N] [--repeats N] [--fit]

Each runs in a process of its own; the files are in the page cache for both.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks import machine
from benchmarks.features import DIM, SHAPE, write
from cxrfeat.device import Device
from cxrfeat.head.bundle import load_bundle
from cxrfeat.head.inputs import COVARIATES
from head_training.features.matrix import load_features
from head_training.training.history import TrainingSettings
from head_training.training.run import FitConfig, fit

_MIB = 2**20


def measure(contestant: str, features: str) -> None:
    """Load once in this process; print seconds, MiB above the empty process, and MiB of the matrix."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.perf_counter()
    if contestant == "ours":
        matrix = load_features(features, COVARIATES).matrix.nbytes / _MIB
    elif contestant == "fit":
        matrix = fit_once(features) / _MIB
    else:
        matrix = pq.read_table(features).nbytes / _MIB
    seconds = time.perf_counter() - start
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before, matrix)


def fit_once(features: str) -> int:
    """Fit the default head for one epoch, all tables and the bundle included, and return the bytes of its matrix."""
    with tempfile.TemporaryDirectory() as folder:
        config = FitConfig(features, Path(folder), settings=TrainingSettings(epochs=1), device=Device.CPU, quiet=True)
        fit(config)
        bundle = load_bundle(config.head)
    rows: int = sum(bundle.training["rows"].values())
    return rows * bundle.inputs.width * np.dtype(np.float32).itemsize


def main(argv: Sequence[str] | None = None) -> int:
    """Run both in turn, and print medians and the ratios that we promise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=sum(SHAPE.values()))
    parser.add_argument("--dim", type=int, default=DIM)
    parser.add_argument("--rows-per-file", type=int, default=2048, help="as the extraction writes them")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--fit", action="store_true", help="measure a whole fit of one epoch too")
    parser.add_argument("--json", type=Path, help="write all runs there too")
    parser.add_argument("--contestant", choices=["ours", "read_table", "fit"], help=argparse.SUPPRESS)
    parser.add_argument("--features", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.contestant:
        measure(options.contestant, options.features)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        shape = {split: count * options.rows // sum(SHAPE.values()) for split, count in SHAPE.items()}
        write(Path(folder), shape, options.dim, rows_per_file=options.rows_per_file)
        names = ["read_table", "ours", *(["fit"] if options.fit else [])]
        results: dict[str, list[list[float]]] = {name: [] for name in names}
        for _ in range(options.repeats):
            for name, runs in results.items():
                command = [sys.executable, "-m", "benchmarks.load", "--contestant", name, "--features", folder]
                answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                runs.append([float(number) for number in answer.split()])
    print(f"{machine.describe()}; {options.rows} x {options.dim}; medians of {options.repeats}")
    median = {name: [statistics.median(column) for column in zip(*runs, strict=True)] for name, runs in results.items()}
    for name, (seconds, peak, size) in median.items():
        print(f"{name:<12}{seconds:7.2f} s   peak {peak:7.0f} MiB   result {size:7.0f} MiB")
    _, peak, size = median["ours"]
    speeds = [raw[0] / ours[0] for raw, ours in zip(results["read_table"], results["ours"], strict=True)]
    each = ", ".join(f"{speed:.2f}" for speed in speeds)
    print(f"speed of ours / read_table {statistics.median(speeds):5.2f}   (bar: 0.5; runs: {each})")
    print(f"peak / matrix      {peak / size:5.2f}   (bar: 2.5)")
    if options.fit:
        _, peak, size = median["fit"]
        print(f"the same of a fit  {peak / size:5.2f}   (bar: 2.5)")
    if options.json:
        seconds = {name: [run[0] for run in runs] for name, runs in results.items()}
        peaks = {name: [run[1] for run in runs] for name, runs in results.items()}
        found = {"rows": options.rows, "width": options.dim, "seconds": seconds, "peaks": peaks}
        options.json.write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
