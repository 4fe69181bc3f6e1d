"""Time of one image in each stage of the worker, on one core, beside alternatives.

    python -m benchmarks.stages --images DIR [--weights PATH --backbone resnet50-v1] [--count 48]
    python -m benchmarks.stages --images DIR --device cuda --batch-size 128      # the same with a GPU

``write`` is pyarrow's, where the job writes through Spark. Needs Linux, to stay on one core.
"""

from __future__ import annotations

import functools
import io
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks import machine, results
from cxrfeat.backbones.encoder import Encoder, EncoderSpec, FrozenEncoder, open_encoder
from cxrfeat.backbones.registry import get_backbone
from cxrfeat.backbones.weights import find_weights
from cxrfeat.device import Engine
from cxrfeat.images import preprocess
from cxrfeat.images.candidates import SUFFIXES
from cxrfeat.images.decode import decode_image
from cxrfeat.io import listing, storage
from cxrfeat.io.refs import ImageRef, to_table
from cxrfeat.io.schema import EMBEDDED
from cxrfeat.pipeline import embed


def measure(
    files: Sequence[str], root: str, spec: EncoderSpec, device: str, *, repeats: int, others: Mapping[str, EncoderSpec]
) -> list[dict[str, Any]]:
    """Run every way once to warm up, then all in turn; return median milliseconds per image.

    ``others`` are further encoders of the same inputs, by name.
    """
    ways = stage_ways(
        files, root, open_encoder(spec, device, 1), {n: FrozenEncoder(each) for n, each in others.items()}
    )
    seconds: dict[tuple[str, str], list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    milliseconds = {name: 1000 * statistics.median(runs) / len(files) for name, runs in seconds.items()}
    return [{"stage": stage, "way": way, "ms": ms} for (stage, way), ms in milliseconds.items()]


def stage_ways(
    files: Sequence[str], root: str, encoder: Encoder, others: Mapping[str, Encoder]
) -> dict[tuple[str, str], Callable[[], object]]:
    """Return functions that handle all files, by stage and name; ``ours`` is what the worker does."""
    contents = [storage.read_bytes(file) for file in files]
    pixels = [decode_image(content).pixels for content in contents]
    inputs = np.stack([preprocess.to_model_input(image) for image in pixels])  # (N, 224, 224) uint8
    rows = list(_embed(files, root, encoder))
    return {
        ("read", "ours"): lambda: [storage.read_bytes(file) for file in files],
        ("decode", "ours"): lambda: [decode_image(content) for content in contents],
        ("resize", "ours"): lambda: [preprocess.to_model_input(image) for image in pixels],
        ("network", "ours"): lambda: encoder.embed(inputs),
        **{("network", name): functools.partial(other.embed, inputs) for name, other in others.items()},
        ("write", "ours"): lambda: _write(rows),
        ("all", "ours"): lambda: _write(_embed(files, root, encoder)),
    }


def _embed(files: Sequence[str], root: str, encoder: Encoder) -> Iterator[pa.RecordBatch]:
    items = (ImageRef(storage.relative_to(file, root)) for file in files)
    return embed.embed_batches(to_table(items).to_batches(), encoder=encoder, root=root)


def _write(batches: Iterable[pa.RecordBatch]) -> None:
    with pq.ParquetWriter(io.BytesIO(), EMBEDDED, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the stages and print them."""
    parser = machine.option_parser(__doc__, images=48, part="stages", engines=True)
    parser.add_argument("--device", default="cpu", help="cpu or cuda:N")
    parser.add_argument("--batch-size", type=int, help="images per batch (default: the device's)")
    options = parser.parse_args(argv)
    cores = os.sched_getaffinity(0)
    if options.device == "cpu":
        os.sched_setaffinity(0, {min(cores)})  # reading ahead must not take a second core
    root = storage.qualify(str(options.images))
    names = sorted(listing.list_files(root, SUFFIXES))[: options.count]
    weights = find_weights(get_backbone(options.backbone), options.weights)
    spec = EncoderSpec(options.backbone, weights, batch_size=options.batch_size)
    others = {"openvino": replace(spec, engine=Engine.OPENVINO)} if options.openvino else {}
    if options.int8:
        others["int8"] = replace(spec, weights=find_weights(get_backbone(options.backbone), str(options.int8)))
    files = [storage.join(root, name) for name in names]
    numbers = measure(files, root, spec, options.device, repeats=options.repeats, others=others)
    os.sched_setaffinity(0, cores)
    results.report("stages", numbers, options.save, torch.device(options.device))
    return 0


if __name__ == "__main__":
    sys.exit(main())
