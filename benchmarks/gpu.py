"""A GPU beside the CPU: do they agree, what does a batch cost, how many decode threads can one GPU use.

    python -m benchmarks.gpu --images DIR [--weights PATH --backbone resnet50-v1] [--device cuda:0] [--count 2048]

Embeddings of 64 images are compared with those of this machine's CPU in fp32: the exit code is 1 if a cosine is below
0.99999 in fp32 or 0.999 in bf16. Then follow the times of batches of several sizes, and the images/s of the worker's
function without Spark on 1, 2, 4, … decode threads. :mod:`benchmarks.stages` and :mod:`benchmarks.fit` take
``--device cuda`` too.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import machine
from benchmarks.workloads import link_images
from cxrfeat.backbones.encoder import EncoderSpec, FrozenEncoder
from cxrfeat.backbones.registry import get_backbone
from cxrfeat.backbones.weights import find_weights
from cxrfeat.device import Precision
from cxrfeat.images.candidates import SUFFIXES
from cxrfeat.io import listing
from cxrfeat.io.refs import ImageRef, to_table
from cxrfeat.pipeline import embed

LEAST_COSINE = {Precision.FP32: 0.99999, Precision.BF16: 0.999}
_COMPARED = 64


def least_cosines(inputs: NDArray[np.uint8], spec: EncoderSpec, device: str) -> dict[Precision, float]:
    """Return, per precision, the least cosine between the device's embeddings and the CPU's in fp32."""
    expected = FrozenEncoder(dataclasses.replace(spec, precision=Precision.FP32)).embed(inputs)  # (N, dim)
    cosines = {}
    for precision in LEAST_COSINE:
        found = FrozenEncoder(dataclasses.replace(spec, precision=precision), device).embed(inputs)
        products = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
        cosines[precision] = float(products.min())
    return cosines


def batch_times(encoder: FrozenEncoder, inputs: NDArray[np.uint8], repeats: int) -> tuple[float, float]:
    """Return the median ms of copying a batch to the device, and of the whole ``embed``, copy included."""
    batch = np.resize(inputs, (encoder.batch_size, *inputs.shape[1:]))
    encoder.embed(batch)
    copies, calls = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        encoder.to_device(batch)
        machine.wait_for(encoder.device)
        copies.append(time.perf_counter() - start)
        start = time.perf_counter()
        encoder.embed(batch)  # returns an array on the CPU, so the device has finished
        calls.append(time.perf_counter() - start)
    return 1000 * statistics.median(copies), 1000 * statistics.median(calls)


def embedding_rate(files: Sequence[str], root: str, encoder: FrozenEncoder, threads: int) -> float:
    """Return images/s of the worker's function on a number of decode threads."""
    handles = to_table(map(ImageRef, files)).to_batches()
    start = time.perf_counter()
    batches = embed.embed_batches(handles, encoder=encoder, root=root, decode_threads=threads)
    rows: int = sum(batch.num_rows for batch in batches)
    return rows / (time.perf_counter() - start)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 if the device disagrees with the CPU."""
    parser = machine.option_parser(__doc__, images=2048, repeats=10)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 64, 128, 256, 512], metavar="N")
    options = parser.parse_args(argv)
    spec = EncoderSpec(options.backbone, find_weights(get_backbone(options.backbone), options.weights))
    encoder = FrozenEncoder(spec, options.device)
    with tempfile.TemporaryDirectory() as root:
        link_images(options.images, Path(root), options.count)
        files = sorted(listing.list_files(root, SUFFIXES))
        prepared = (embed.prepare(ImageRef(file), root).model_input for file in files[:_COMPARED])
        inputs = np.stack([model_input for model_input in prepared if model_input is not None])
        print(f"{machine.describe(encoder.device)}; {machine.versions()}; {len(files)} images")
        cosines = least_cosines(inputs, spec, options.device)
        for precision, cosine in cosines.items():
            least = LEAST_COSINE[precision]
            print(f"least cosine to the CPU in fp32, {precision}: {cosine:.7f}   (at least {least})")
        for precision, size in itertools.product(LEAST_COSINE, options.batch_sizes):
            sized = FrozenEncoder(dataclasses.replace(spec, precision=precision, batch_size=size), options.device)
            copy, call = batch_times(sized, inputs, options.repeats)
            rate = 1000 * size / call
            print(f"{precision}, batch of {size:>4}: copy {copy:6.2f} ms, all {call:7.2f} ms: {rate:8,.0f} images/s")
        _, call = batch_times(encoder, inputs, options.repeats)
        most, alone = 1000 * encoder.batch_size / call, 0.0
        for threads in (1 << exponent for exponent in range(machine.CORES.bit_length())):  # 1, 2, 4, …
            share = max(len(files) * threads // machine.CORES, 2 * encoder.batch_size)  # few threads get few images
            rate = embedding_rate(files[:share], root, encoder, threads)
            alone = alone or rate
            print(f"{threads:>3} decode threads: {rate:8.1f} images/s")
        print(f"{encoder.device} in {encoder.precision} can use {most / alone:.0f} such threads: {most:,.0f} images/s")
    return int(any(cosine < LEAST_COSINE[precision] for precision, cosine in cosines.items()))


if __name__ == "__main__":
    sys.exit(main())
