"""Where an image's time goes: every stage of the worker on one core, and the least that is known to be possible.

    python -m benchmarks.stages --images DIR [--weights PATH --backbone resnet50-v1] [--count 48] [--repeats 3]
    python -m benchmarks.stages --images DIR --device cuda --batch-size 128      # the same on a GPU

A floor is what the best known library needs for the same thing (dev-only packages of the ``bench`` extra). Floors of decode and
resize give other bits than Pillow; they say what speed could be had, not what may be exchanged. ``inflate`` is a part of ``decode``;
``write`` is pyarrow's, where the job writes through Spark. Needs Linux, to stay on one core.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import deflate
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torchvision
from isal import isal_zlib
from numpy.typing import NDArray

from benchmarks import limits, machine
from benchmarks.results import STAGES
from cxrfeat.backbones.encoder import Encoder, EncoderSpec, load_encoder
from cxrfeat.backbones.registry import get_backbone
from cxrfeat.backbones.weights import find_weights
from cxrfeat.images import png_jpeg, preprocess
from cxrfeat.io import storage
from cxrfeat.io.schema import EMBEDDED, HANDLE, Augmentation
from cxrfeat.pipeline import embed

PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Stage:
    """One way to do one thing.

    Attributes:
        stage: read, inflate, decode, resize, network, Arrow, write, all.
        way: ``ours``, or the library of a floor.
        ms: milliseconds an image, median over the repeats.
    """

    stage: str
    way: str
    ms: float


def deflated(data: bytes) -> bytes:
    """Return the zlib stream of a PNG: its IDAT chunks put together.

    Raises:
        ValueError: it is not a PNG.
    """
    if not data.startswith(PNG):
        raise ValueError(f"expected a PNG; it starts with {data[:8]!r}")
    parts, at = [], len(PNG)
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IDAT":
            parts.append(data[at + 8 : at + 8 + length])
        at += length + 12
    return b"".join(parts)


@dataclass(frozen=True)
class Way:
    """A stage that can be run: ``do`` handles ``count`` films."""

    stage: str
    name: str
    do: Callable[[], object]
    count: int


def measure(files: Sequence[str], root: str, spec: EncoderSpec, device: str, repeats: int) -> list[Stage]:
    """Run every way once to warm up, then all in turn, ``repeats`` times; return the medians and the network's bounds."""
    ways = [*_ways_to_read(files), *_ways_to_compute(files, root, spec, device)]
    seconds: dict[Way, list[float]] = {way: [] for way in ways}
    for way in ways:
        way.do()
    for _ in range(repeats):
        for way, runs in seconds.items():
            start = time.perf_counter()
            way.do()
            runs.append(time.perf_counter() - start)
    measured = [Stage(way.stage, way.name, 1000 * statistics.median(runs) / way.count) for way, runs in seconds.items()]
    bound = limits.of_network(spec, load_encoder(spec, device, 1).batch_size, device)
    bounds = {"FLOP bound": bound.flop_ms, "memory bound": bound.memory_ms}
    return [*measured, *(Stage("network", name, ms) for name, ms in bounds.items())]


def _ways_to_read(files: Sequence[str]) -> list[Way]:
    """Return the stages from file to model input."""
    contents = [storage.read_bytes(file) for file in files]
    streams = [deflated(content) for content in contents if content.startswith(PNG)]
    sizes = [len(zlib.decompress(stream)) for stream in streams]
    pixels = [png_jpeg.decode(content).pixels for content in contents]

    def over(stage: str, name: str, one: Callable[..., object], *items: Sequence[Any]) -> Way:
        return Way(stage, name, lambda: [one(*item) for item in zip(*items, strict=True)], len(items[0]))

    inflate = [
        over("inflate", "zlib", zlib.decompress, streams),
        over("inflate", "ISA-L", isal_zlib.decompress, streams),
        over("inflate", "libdeflate", deflate.zlib_decompress, streams, sizes),
    ]
    return [
        over("read", "ours", storage.read_bytes, files),
        over("read", "pathlib", lambda file: Path(file).read_bytes(), files),
        *(inflate if streams else []),
        over("decode", "ours", png_jpeg.decode, contents),
        over("decode", "torchvision", _torchvision_gray, contents),
        over("decode", "OpenCV", _opencv_gray, contents),
        over("resize", "ours", preprocess.to_model_input, pixels),
        over("resize", "OpenCV, area", _opencv_resize, pixels),
    ]


def _ways_to_compute(files: Sequence[str], root: str, spec: EncoderSpec, device: str) -> list[Way]:
    """Return the stages from model input to Parquet, and all stages together."""
    prepared = [embed.prepare(file, root) for file in files]
    films = [film for film in prepared if film.model_input is not None]
    inputs = np.stack([film.model_input for film in films if film.model_input is not None])
    encoder, ready, count = load_encoder(spec, device, 1), _Ready(len(films), spec), len(films)
    batch = embed._embed_images(films, ready, [Augmentation.NONE])
    ways = [
        Way("network", "ours", lambda: encoder.embed(inputs), count),
        Way("Arrow", "ours", lambda: embed._embed_images(films, ready, [Augmentation.NONE]), count),
        Way("Arrow", "zero-copy list", lambda: pa.FixedSizeListArray.from_arrays(ready.flat, ready.dim), count),
        Way("write", "ours: zstd", lambda: _write([batch], "zstd"), count),
        Way("write", "not compressed", lambda: _write([batch], "none"), count),
        Way("all", "ours", lambda: _write(_embed(files, root, encoder), "zstd"), len(files)),
    ]
    if device == "cpu":
        from benchmarks.peers.openvino import OpenVinoEncoder  # noqa: PLC0415 -- a floor of CPUs only

        floor = OpenVinoEncoder(spec)
        ways.append(Way("network", f"OpenVINO {floor.precision}", lambda: floor.embed(inputs), count))
    return ways


class _Ready:
    """An encoder that has its embeddings already, so that what is left of the worker's function is Arrow's share."""

    precision = "bf16"

    def __init__(self, count: int, spec: EncoderSpec) -> None:
        self.dim, self.fingerprint, self.batch_size = get_backbone(spec.backbone).dim, spec.fingerprint, count
        self._embeddings = np.random.default_rng(0).random((count, self.dim), dtype=np.float32)
        self.flat = pa.array(self._embeddings.ravel())

    def embed(self, inputs: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return as many embeddings as there are inputs."""
        return self._embeddings[: len(inputs)]


def _embed(files: Sequence[str], root: str, encoder: Encoder) -> Iterator[pa.RecordBatch]:
    return embed.embed_batches([pa.record_batch({"uri": files}, HANDLE)], encoder=encoder, root=root)


def _torchvision_gray(content: bytes) -> object:
    data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    return torchvision.io.decode_image(data, torchvision.io.ImageReadMode.GRAY)


def _opencv_gray(content: bytes) -> object:
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE)


def _opencv_resize(film: NDArray[np.uint8]) -> object:
    return cv2.resize(film, (preprocess.SIDE, preprocess.SIDE), interpolation=cv2.INTER_AREA)


def _write(batches: Iterable[pa.RecordBatch], compression: str) -> None:
    with pq.ParquetWriter(io.BytesIO(), EMBEDDED, compression=compression) as writer:
        for batch in batches:
            writer.write_batch(batch)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", required=True, help="films, real ones or phantoms")
    parser.add_argument("--weights", default="random")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu", help="of our network: cpu or cuda:N")
    parser.add_argument("--batch-size", type=int, help="of our network (default: the device's)")
    parser.add_argument("--json", type=Path, help="write the stages there too")
    options = parser.parse_args(argv)
    if options.device == "cpu":
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # reading ahead must not take a second core
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    root = storage.qualify(options.images)
    names = sorted(storage.list_files(root, png_jpeg.SUFFIXES))[: options.count]
    weights = find_weights(get_backbone(options.backbone), options.weights)
    spec = EncoderSpec(options.backbone, weights, batch_size=options.batch_size)
    stages = measure([storage.join(root, name) for name in names], root, spec, options.device, options.repeats)
    print(f"{machine.describe()}; {len(names)} films, {options.device}, one core; ms an image")
    for stage in sorted(stages, key=lambda stage: STAGES.index(stage.stage)):
        print(f"{stage.stage:<10}{stage.way:<20}{stage.ms:8.2f}")
    if options.json:
        options.json.write_text(json.dumps([asdict(stage) for stage in stages]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
