"""Training of the default grid against its alternatives, side by side in one run: seconds per epoch.

    python -m benchmarks.fit [--rows N] [--contestants NAME …]
    python -m benchmarks.fit --device cuda      # without 2018, which runs on CPUs
    python -m benchmarks.fit --memory 40000     # seconds and peak memory of reading N rows, and of a whole fit

stack       the default grid of 24, trained together, validation included
one by one  the same 24, each trained alone by the same code
plain       one of them as in torch's tutorial: modules, autograd, Adam
one         one default configuration by our code
2018        one configuration with a DataLoader and batches of 10
... bf16    the same with --precision bf16
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import machine, results
from benchmarks.workloads import DIM, NIH_ROWS, draw_embeddings, write_embeddings
from cxrfeat.device import Device, Precision
from cxrfeat.head.inputs import COVARIATES
from cxrfeat.io.schema import Split
from cxrfeat.labels.findings import FINDINGS
from head_training.features.matrix import load_features
from head_training.training.grid import DEFAULT_GRID, Configuration, expand
from head_training.training.history import TrainingSettings
from head_training.training.run import FitConfig
from head_training.training.run import fit as run_fit
from head_training.training.trainer import Examples, initial_head, train

SETTINGS = TrainingSettings(epochs=1)
BF16 = TrainingSettings(epochs=1, precision=Precision.BF16)
_VAL_SHARE = 7


def draw_examples(count: int, width: int, seed: int, device: torch.device) -> Examples:
    """Return (count, width) inputs and their labels, unweighted."""
    arrays = (*draw_embeddings(count, width, seed), np.ones((2, 14), np.float32))
    return Examples(*(torch.from_numpy(array).to(device) for array in arrays))


def train_with_autograd(batches: Iterable[Sequence[torch.Tensor]], width: int, device: torch.device) -> None:
    """Train the default configuration on batches of (B, width) inputs and (B, 14) labels."""
    default = Configuration()
    head = initial_head(width, default.hidden, len(FINDINGS), 0).to(device).train()
    optimizer = torch.optim.Adam(head.parameters(), lr=default.lr, weight_decay=default.weight_decay)
    for inputs, labels in batches:
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(head(inputs), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def plain(data: Examples) -> None:
    """Train one epoch on shuffled slices of a tensor."""
    count, width = data.inputs.shape
    order = torch.split(torch.randperm(count, device=data.inputs.device), SETTINGS.batch_size)
    batches = ((data.inputs[rows], data.labels[rows]) for rows in order)
    train_with_autograd(batches, width, data.inputs.device)


def recipe_2018(data: Examples) -> None:
    """Train one epoch with a DataLoader and batches of 10."""
    loader = DataLoader(TensorDataset(data.inputs, data.labels), batch_size=10, shuffle=True)
    train_with_autograd(loader, data.inputs.shape[1], data.inputs.device)


def contestants(rows: int, dim: int, device: torch.device) -> dict[str, Callable[[], None]]:
    """Return all functions to time, by name."""
    width = dim + len(COVARIATES)
    data, val = (draw_examples(count, width, seed, device) for seed, count in enumerate((rows, rows // _VAL_SHARE)))
    grid = expand(DEFAULT_GRID, {})

    def together(configurations: Sequence[Configuration], settings: TrainingSettings = SETTINGS) -> None:
        train(data, val, configurations, settings)

    def one_by_one(settings: TrainingSettings) -> None:
        for configuration in grid:
            together([configuration], settings)

    ways = {
        "stack": lambda: together(grid),
        "one by one": lambda: one_by_one(SETTINGS),
        "plain": lambda: plain(data),
        "one": lambda: together([Configuration()]),
        "2018": lambda: recipe_2018(data),
        "stack bf16": lambda: together(grid, BF16),
        "one by one bf16": lambda: one_by_one(BF16),
    }
    return {name: way for name, way in ways.items() if device.type == "cpu" or name != "2018"}


def measure(ways: Mapping[str, Callable[[], None]], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Run all functions in turn and return the seconds of each; on a GPU each has a warm-up run."""
    if device.type == "cuda":
        for way in ways.values():
            way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            machine.wait_for(device)
            start = time.perf_counter()
            way()
            machine.wait_for(device)
            seconds[name].append(time.perf_counter() - start)
            print(f"  {name:<16}{seconds[name][-1]:8.3f} s", file=sys.stderr, flush=True)
    return seconds


def read_once(name: str, features: str) -> tuple[float, float]:
    """Read the embeddings in this process; return seconds, and the MiB by which the process grew."""
    before, start = _peak_mib(), time.perf_counter()
    if name == "read_table":
        pq.read_table(features)
    elif name == "load_features":
        load_features(features, COVARIATES)
    else:
        with tempfile.TemporaryDirectory() as folder:
            run_fit(FitConfig(features, Path(folder), settings=SETTINGS, device=Device.CPU, quiet=True))
    return time.perf_counter() - start, _peak_mib() - before


def _peak_mib() -> float:
    # Not getrusage: after a fork it starts at the parent's peak.
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def measure_memory(rows: int, dim: int, repeats: int) -> dict[str, object]:
    """Run each reader in processes of its own, with the files in the page cache; return seconds and peaks."""
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in ("read_table", "load_features", "fit")}
    with tempfile.TemporaryDirectory() as folder:
        written = write_embeddings(Path(folder), rows, dim)
        for _ in range(repeats):
            for name, done in runs.items():
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                    done.append(pool.submit(read_once, name, folder).result())
    seconds, peaks = ({name: [run[column] for run in done] for name, done in runs.items()} for column in (0, 1))
    return {"rows": written, "width": dim, "seconds": seconds, "peaks": peaks}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the contestants in turn, or measure memory, and print the results."""
    parser = machine.option_parser(__doc__, part="fit")
    parser.add_argument("--rows", type=int, default=NIH_ROWS[Split.TRAIN], help="training rows; val has a seventh more")
    parser.add_argument("--dim", type=int, default=DIM)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--contestants", nargs="+", metavar="NAME", help="run these alone")
    parser.add_argument("--memory", type=int, metavar="N", help="measure reading and memory with N rows instead")
    options = parser.parse_args(argv)
    if options.memory:
        numbers = measure_memory(options.memory, options.dim, options.repeats)
        results.report("fit_memory", numbers, options.save)
        return 0
    ways = contestants(options.rows, options.dim, options.device)
    chosen = options.contestants or list(ways)
    if unknown := sorted(set(chosen) - set(ways)):
        parser.error(f"--contestants: unknown {', '.join(unknown)}; {options.device} has {', '.join(ways)}")
    seconds = measure({name: ways[name] for name in chosen}, options.repeats, options.device)
    numbers = {"rows": options.rows, "width": options.dim + len(COVARIATES), "seconds": seconds}
    results.report("fit", numbers, options.save, options.device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
