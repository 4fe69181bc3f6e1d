"""Training of a grid against what else it could cost, side by side in one run: seconds an epoch.

    python -m benchmarks.fit [--rows N] [--repeats N]

stack       our default grid of 24, all at once, validation included
one by one  the same 24, each trained alone by the same code: hand-written gradients, fused Adam, no DataLoader
plain       one of them as torch's tutorial would: modules, autograd, Adam (x 24 in the ratios)
one         one default fit by our code
2018        one fit with a DataLoader and batches of 10
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
from collections.abc import Callable, Iterable, Sequence
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
from cxrfeat.schema import Split
from head_training.course import Settings
from head_training.grid import DEFAULT_GRID, Configuration, expand
from head_training.train import Examples, initial_head, train

EXTRAS = 2
CACHE_LINE = 16
SETTINGS = Settings(epochs=1)
BF16 = Settings(epochs=1, precision=Precision.BF16)


def examples(count: int, width: int, seed: int) -> Examples:
    """Make inputs and labels of one split."""
    inputs, labels = make(count, width, seed)
    return Examples(torch.from_numpy(inputs), torch.from_numpy(labels), torch.from_numpy(np.ones((2, 14), np.float32)))


def fit(data: Examples, val: Examples, grid: Sequence[Configuration], settings: Settings = SETTINGS) -> None:
    """Train some configurations together for an epoch by our code."""
    train(data, val, grid, settings)


def fit_one_by_one(data: Examples, val: Examples, grid: Sequence[Configuration], settings: Settings = SETTINGS) -> None:
    """Train them one after the other."""
    for configuration in grid:
        fit(data, val, [configuration], settings)


def fit_plainly(batches: Iterable[Sequence[torch.Tensor]], configuration: Configuration, width: int) -> None:
    """Train for an epoch with autograd, on batches of inputs and labels."""
    head = initial_head(width, configuration.hidden, 0).train()
    optimizer = torch.optim.Adam(head.parameters(), lr=configuration.lr, weight_decay=configuration.weight_decay)
    for inputs, labels in batches:
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(head(inputs), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def plain(data: Examples) -> None:
    """Train the default configuration as one would by hand."""
    order = torch.split(torch.randperm(len(data.inputs)), SETTINGS.batch_size)
    fit_plainly(((data.inputs[rows], data.labels[rows]) for rows in order), Configuration(), data.inputs.shape[1])


def recipe_2018(data: Examples) -> None:
    """Train the default configuration with a DataLoader and batches of 10."""
    loader = DataLoader(TensorDataset(data.inputs, data.labels), batch_size=10, shuffle=True)
    fit_plainly(loader, Configuration(), data.inputs.shape[1])


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
    inputs, weights = torch.randn(size, width).to(dtype), torch.randn(units, width).to(dtype)
    delta, outputs = torch.randn(units, size).to(dtype), torch.empty(units, size, dtype=dtype)
    gradients = torch.empty_like(weights)
    for _ in range(-(-len(data.inputs) // size)):
        torch.mm(weights, inputs.T, out=outputs)
        torch.mm(delta, inputs, out=gradients)


def main(argv: Sequence[str] | None = None) -> int:
    """Run all contestants in turn, and print medians and the ratios that we promise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=SHAPE[Split.TRAIN], help="of training; a seventh more for val")
    parser.add_argument("--dim", type=int, default=DIM)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the seconds of all repeats there too")
    options = parser.parse_args(argv)
    width = options.dim + EXTRAS
    data, val = examples(options.rows, width, 0), examples(options.rows // 7, width, 1)
    grid = expand(DEFAULT_GRID, {})
    units = sum(configuration.hidden[0] for configuration in grid)
    contestants: dict[str, Callable[[], None]] = {
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
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(options.repeats):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
            print(f"  {name:<16}{seconds[name][-1]:8.2f} s", file=sys.stderr, flush=True)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    print(f"{machine.describe()}, {torch.get_num_threads()} threads; {options.rows} x {width}")
    print(f"seconds an epoch, median of {options.repeats} (lowest)")
    for name, times in seconds.items():
        print(f"{name:<16}{median[name]:8.2f} ({min(times):.2f})")
    print(f"stack / one by one    {median['stack'] / median['one by one']:6.2f}   (bar: 0.50)")
    print(f"stack / (24 x plain)  {median['stack'] / median['plain'] / len(grid):6.2f}")
    print(f"GEMM / one by one     {median['GEMM'] / median['one by one']:6.2f}   (what no stack can be below)")
    print(f"stack / GEMM          {median['stack'] / median['GEMM']:6.2f}   (bar: 1.50)")
    print(f"both in bf16          {median['stack bf16'] / median['one by one bf16']:6.2f}")
    print(f"stack bf16 / fp32     {median['stack bf16'] / median['stack']:6.2f}")
    print(f"stack / GEMM in bf16  {median['stack bf16'] / median['GEMM bf16']:6.2f}")
    print(f"2018 / one            {median['2018'] / median['one']:6.2f}   (bar: 10)")
    print(f"sklearn / one         {median['sklearn'] / median['one']:6.2f}")
    if options.json:
        options.json.write_text(json.dumps({"rows": options.rows, "width": width, "seconds": seconds}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
