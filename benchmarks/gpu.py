"""A GPU beside the CPU: do they agree, what does a batch cost, how many cores can one GPU use, and how busy is it.

    python -m benchmarks.gpu --images DIR [--weights PATH --backbone resnet50-v1] [--device cuda:0] [--count 2048]

Embeddings of 64 films are compared with those of this machine's CPU in fp32: cosine at least 0.99999 in fp32 and 0.999 in bf16, or
the exit code is 1. Then what batches of several sizes cost, copy and network. Then films per second of the worker's function, no
Spark, with 1, 2, 4, … decode threads; the GPU's busy share is what ``nvidia-smi`` reports meanwhile. How many cores the GPU can use
is its own rate over that of one thread. Stages are :mod:`benchmarks.stages`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from benchmarks import machine
from benchmarks.films import replicate
from cxrfeat.backbones.encoder import EncoderSpec, FrozenEncoder
from cxrfeat.backbones.registry import get_backbone
from cxrfeat.backbones.weights import find_weights
from cxrfeat.device import Precision
from cxrfeat.images import png_jpeg
from cxrfeat.io import storage
from cxrfeat.io.schema import HANDLE
from cxrfeat.pipeline import embed

LEAST_COSINE = {Precision.FP32: 0.99999, Precision.BF16: 0.999}
COMPARED = 64


def agreement(inputs: NDArray[np.uint8], backbone: str, weights: str, device: str) -> dict[Precision, float]:
    """Return the least cosine between the device's embeddings and the CPU's in fp32, for each precision."""
    found = find_weights(get_backbone(backbone), weights)
    expected = FrozenEncoder(EncoderSpec(backbone, found, Precision.FP32)).embed(inputs)
    cosines = {}
    for precision in LEAST_COSINE:
        made = FrozenEncoder(EncoderSpec(backbone, found, precision), device).embed(inputs)
        products = (made * expected).sum(1) / np.linalg.norm(made, axis=1) / np.linalg.norm(expected, axis=1)
        cosines[precision] = float(products.min())
    return cosines


def batch_costs(encoder: FrozenEncoder, inputs: NDArray[np.uint8], repeats: int = 10) -> tuple[float, float]:
    """Return the median ms of copying a batch to the device, and of all that ``embed`` does with it, the copy included."""
    batch = np.resize(inputs, (encoder.batch_size, *inputs.shape[1:]))
    encoder.embed(batch)
    copies, calls = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        encoder.to_device(batch)
        machine.wait_for(encoder.device)
        copies.append(time.perf_counter() - start)
        start = time.perf_counter()
        encoder.embed(batch)  # returns numbers on the CPU, so the device is done
        calls.append(time.perf_counter() - start)
    return 1000 * statistics.median(copies), 1000 * statistics.median(calls)


def rate(files: Sequence[str], root: str, encoder: FrozenEncoder, threads: int) -> tuple[float, float | None]:
    """Embed the files with a number of decode threads; return films/s and the GPU's busy share, if there is one."""
    handles = [pa.record_batch({"uri": files}, HANDLE)]
    with _busy_share(encoder.device) as samples:
        start = time.perf_counter()
        rows = sum(
            batch.num_rows for batch in embed.embed_batches(handles, encoder=encoder, root=root, decode_threads=threads)
        )
        seconds = time.perf_counter() - start
    return rows / seconds, statistics.mean(samples) / 100 if samples else None


@contextlib.contextmanager
def _busy_share(device: torch.device) -> Iterator[list[float]]:
    """Collect the percentage of time that a GPU was busy, five times a second; nothing for a CPU."""
    samples: list[float] = []
    if device.type != "cuda":
        yield samples
        return
    query = ["nvidia-smi", f"--id={device.index or 0}", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    with tempfile.TemporaryFile("w+") as log, subprocess.Popen([*query, "--loop-ms=200"], stdout=log) as watcher:
        try:
            yield samples
        finally:
            watcher.terminate()
            watcher.wait()
            log.seek(0)
            samples.extend(float(line) for line in log if line.strip())


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if the device does not agree with the CPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="films, real ones or phantoms")
    parser.add_argument("--weights", default="random")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 64, 128, 256, 512], metavar="N")
    parser.add_argument("--count", type=int, default=2048, help="films to embed, linked from --images")
    options = parser.parse_args(argv)
    weights = find_weights(get_backbone(options.backbone), options.weights)
    spec = EncoderSpec(options.backbone, weights)
    encoder = FrozenEncoder(spec, options.device)
    with tempfile.TemporaryDirectory() as root:
        replicate(options.images, Path(root), options.count)
        files = [storage.join(root, name) for name in sorted(storage.list_files(root, png_jpeg.SUFFIXES))]
        prepared = (embed.prepare(file, root).model_input for file in files[:COMPARED])
        inputs = np.stack([model_input for model_input in prepared if model_input is not None])
        print(
            f"{machine.describe_device(encoder.device)}; {machine.versions()}; {len(files)} films, {encoder.precision}"
        )
        cosines = agreement(inputs, options.backbone, options.weights, options.device)
        for precision, cosine in cosines.items():
            print(f"least cosine to the CPU in fp32, {precision}: {cosine:.7f}   (bar: {LEAST_COSINE[precision]})")
        for precision, size in itertools.product(LEAST_COSINE, options.batch_sizes):
            tried = FrozenEncoder(dataclasses.replace(spec, precision=precision, batch_size=size), options.device)
            copy, call = batch_costs(tried, inputs)
            print(
                f"{precision}, a batch of {size:>4}: {copy:6.2f} ms to copy, {call:7.2f} ms in all: {1000 * size / call:8,.0f} img/s"
            )
        _, call = batch_costs(encoder, inputs)
        most, alone = 1000 * encoder.batch_size / call, 0.0
        cores = os.cpu_count() or 1
        for threads in _powers_of_two(cores):
            share = max(len(files) * threads // cores, 2 * encoder.batch_size)  # so that few threads don't take forever
            images, busy = rate(files[:share], root, encoder, threads)
            alone = alone or images
            note = "" if busy is None else f"   GPU busy {busy:.0%}"
            print(f"{threads:>3} decode threads: {images:8.1f} img/s{note}")
        print(
            f"{encoder.device} can use {most / alone:.0f} such threads: {most:,.0f} img/s in batches of {encoder.batch_size}"
        )
    return int(any(cosine < LEAST_COSINE[precision] for precision, cosine in cosines.items()))


def _powers_of_two(most: int) -> list[int]:
    return [1 << exponent for exponent in range(most.bit_length())]


if __name__ == "__main__":
    sys.exit(main())
