"""Training of a grid against what else it could cost, side by side in one run: seconds an epoch.

    python -m benchmarks.fit [--rows N] [--repeats N] [--contestants NAME …]
    python -m benchmarks.fit --device cuda        # the same on a GPU, without sklearn and 2018, which have no use for one

stack       our default grid of 24, all at once, validation included
one by one  the same 24, each trained alone by the same code: hand-written gradients, fused Adam, no DataLoader
plain       one of them as torch's tutorial would: modules, autograd, Adam (x 24 in the ratios)
one         one default fit by our code
2018        one fit with a DataLoader and batches of 10, on the CPU
sklearn     one of them by scikit-learn's MLPClassifier, with the same layers, batches and learning rate
GEMM        only the first layer's two products of the stack (forward and weight gradient), nothing else
... bf16    the same with --precision bf16
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import machine
from benchmarks.features import DIM, SHAPE, make
from cxrfeat.device import Precision
from cxrfeat.io.schema import Split
from head_training.training.grid import DEFAULT_GRID, Configuration, expand
from head_training.training.history import TrainingSettings
from head_training.training.trainer import Examples, initial_head, train

EXTRAS = 2
CACHE_LINE = 16
SETTINGS = TrainingSettings(epochs=1)
BF16 = TrainingSettings(epochs=1, precision=Precision.BF16)


def examples(count: int, width: int, seed: int, device: torch.device) -> Examples:
    """Make inputs and labels of one split."""
    arrays = (*make(count, width, seed), np.ones((2, 14), np.float32))
    return Examples(*(torch.from_numpy(array).to(device) for array in arrays))


def fit(data: Examples, val: Examples, grid: Sequence[Configuration], settings: TrainingSettings = SETTINGS) -> None:
    """Train some configurations together for an epoch by our code."""
    train(data, val, grid, settings)


def fit_one_by_one(
    data: Examples, val: Examples, grid: Sequence[Configuration], settings: TrainingSettings = SETTINGS
) -> None:
    """Train them one after the other."""
    for configuration in grid:
        fit(data, val, [configuration], settings)


def fit_plainly(
    batches: Iterable[Sequence[torch.Tensor]], configuration: Configuration, width: int, device: torch.device
) -> None:
    """Train for an epoch with autograd, on batches of inputs and labels."""
    head = initial_head(width, configuration.hidden, 0).to(device).train()
    optimizer = torch.optim.Adam(head.parameters(), lr=configuration.lr, weight_decay=configuration.weight_decay)
    for inputs, labels in batches:
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(head(inputs), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def plain(data: Examples) -> None:
    """Train the default configuration as one would by hand."""
    count, width = data.inputs.shape
    order = torch.split(torch.randperm(count, device=data.inputs.device), SETTINGS.batch_size)
    batches = ((data.inputs[rows], data.labels[rows]) for rows in order)
    fit_plainly(batches, Configuration(), width, data.inputs.device)


def recipe_2018(data: Examples) -> None:
    """Train the default configuration with a DataLoader and batches of 10."""
    loader = DataLoader(TensorDataset(data.inputs, data.labels), batch_size=10, shuffle=True)
    fit_plainly(loader, Configuration(), data.inputs.shape[1], data.inputs.device)


def scikit_learn(data: Examples) -> None:
    """Train the default configuration for an epoch with scikit-learn."""
    default = Configuration()
    network = MLPClassifier(
        default.hidden,
        batch_size=SETTINGS.batch_size,
        learning_rate_init=default.lr,
        alpha=default.weight_decay,
        max_iter=1,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # one epoch is what we want
        network.fit(data.inputs.numpy(), data.labels.numpy())


def gemm(data: Examples, units: int, dtype: torch.dtype) -> None:
    """Multiply as the first layers of an epoch do, in their layout, on one batch and into memory that is there."""
    size, width = SETTINGS.batch_size, -(-data.inputs.shape[1] // CACHE_LINE) * CACHE_LINE
    shapes = {"inputs": (size, width), "weights": (units, width), "delta": (units, size), "outputs": (units, size)}
    inputs, weights, delta, outputs = (
        torch.randn(shape, device=data.inputs.device, dtype=dtype) for shape in shapes.values()
    )
    gradients = torch.empty_like(weights)
    for _ in range(-(-len(data.inputs) // size)):
        torch.mm(weights, inputs.T, out=outputs)
        torch.mm(delta, inputs, out=gradients)


RATIOS = {
    "stack / one by one": (("stack", 1), ("one by one", 1), "bar: 0.50"),
    "stack / (24 x plain)": (("stack", 1), ("plain", 24), ""),
    "stack / one": (("stack", 1), ("one", 1), "bar on a GPU: 2"),
    "GEMM / one by one": (("GEMM", 1), ("one by one", 1), "what no stack can be below"),
    "stack / GEMM": (("stack", 1), ("GEMM", 1), "bar: 1.50"),
    "both in bf16": (("stack bf16", 1), ("one by one bf16", 1), ""),
    "stack bf16 / fp32": (("stack bf16", 1), ("stack", 1), ""),
    "stack / GEMM in bf16": (("stack bf16", 1), ("GEMM bf16", 1), ""),
    "2018 / one": (("2018", 1), ("one", 1), "bar: 10"),
    "sklearn / one": (("sklearn", 1), ("one", 1), ""),
}
"""Name → two contestants with the times that each counts, and the bar."""

CPU_ONLY = ("2018", "sklearn")


def contestants(rows: int, dim: int, device: torch.device) -> dict[str, Callable[[], None]]:
    """Return what can be run, by name."""
    width = dim + EXTRAS
    data, val = examples(rows, width, 0, device), examples(rows // 7, width, 1, device)
    grid = expand(DEFAULT_GRID, {})
    units = sum(configuration.hidden[0] for configuration in grid)
    ways = {
        "stack": lambda: fit(data, val, grid),
        "one by one": lambda: fit_one_by_one(data, val, grid),
        "plain": lambda: plain(data),
        "one": lambda: fit(data, val, [Configuration()]),
        "2018": lambda: recipe_2018(data),
        "sklearn": lambda: scikit_learn(data),
        "GEMM": lambda: gemm(data, units, torch.float32),
        "stack bf16": lambda: fit(data, val, grid, BF16),
        "one by one bf16": lambda: fit_one_by_one(data, val, grid, BF16),
        "GEMM bf16": lambda: gemm(data, units, torch.bfloat16),
    }
    return {name: way for name, way in ways.items() if device.type == "cpu" or name not in CPU_ONLY}


def measure(ways: Mapping[str, Callable[[], None]], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Run all in turn, and return the seconds of each; on a GPU all are warmed up first, and it is waited for."""
    if device.type == "cuda":
        for run in ways.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, run in ways.items():
            machine.wait_for(device)
            start = time.perf_counter()
            run()
            machine.wait_for(device)
            seconds[name].append(time.perf_counter() - start)
            print(f"  {name:<16}{seconds[name][-1]:8.3f} s", file=sys.stderr, flush=True)
    return seconds


def main(argv: Sequence[str] | None = None) -> int:
    """Run all contestants in turn, and print medians and the ratios that we promise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=SHAPE[Split.TRAIN], help="of training; a seventh more for val")
    parser.add_argument("--dim", type=int, default=DIM)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--contestants", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--json", type=Path, help="write the seconds of all repeats there too")
    options = parser.parse_args(argv)
    ways = contestants(options.rows, options.dim, options.device)
    chosen = options.contestants or list(ways)
    if unknown := sorted(set(chosen) - set(ways)):
        parser.error(f"--contestants: {unknown}; on {options.device} there are {list(ways)}")
    seconds = measure({name: ways[name] for name in chosen}, options.repeats, options.device)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    where = machine.describe_device(options.device)
    print(f"{where}, {torch.get_num_threads()} threads; {options.rows} x {options.dim + EXTRAS}")
    print(f"seconds an epoch, median of {options.repeats} (lowest)")
    for name, times in seconds.items():
        print(f"{name:<16}{median[name]:8.3f} ({min(times):.3f})")
    for name, ((above, count), (below, other), note) in RATIOS.items():
        if above in median and below in median:
            ratio = median[above] * count / median[below] / other
            print(f"{name:<22}{ratio:6.2f}" + (f"   ({note})" if note else ""))
    if options.json:
        options.json.write_text(json.dumps({"rows": options.rows, "width": options.dim + EXTRAS, "seconds": seconds}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
