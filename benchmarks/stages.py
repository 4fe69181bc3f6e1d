"""Where an image's time goes: every stage of the worker on one thread, and the least that is known to be possible.

    python -m benchmarks.stages --images DIR [--weights PATH --backbone resnet50-v1] [--count 48] [--repeats 3]
    python -m benchmarks.stages --images DIR --device cuda --batch-size 128      # the same on a GPU

A floor is what the best known library needs for the same thing (dev-only packages of the ``bench`` extra). Floors of decode and
resize give other bits than Pillow; they say what speed could be had, not what may be exchanged.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import struct
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import deflate
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torchvision
from isal import isal_zlib

from benchmarks import limits, machine
from benchmarks.peers.openvino import OpenVinoEncoder
from cxrfeat import embed, imaging, preprocess, storage
from cxrfeat.backbone import find_weights, get_backbone
from cxrfeat.encoder import EncoderSpec, load_encoder
from cxrfeat.schema import EMBEDDED, HANDLE, Augmentation

PNG = b"\x89PNG\r\n\x1a\n"
_INFLATED = 256 * 1024**2


@dataclass(frozen=True)
class Stage:
    """One way to do one thing.

    Attributes:
        stage: read, inflate, decode, resize, network, Arrow, write, all.
        way: ``ours``, or the library of a floor.
        ms: milliseconds an image, median over the repeats.
        inside: it is a part of the stage that follows, and not added to the sum.
    """

    stage: str
    way: str
    ms: float
    inside: bool = False


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


def measure(files: Sequence[str], root: str, spec: EncoderSpec, device: str, repeats: int) -> list[Stage]:
    """Measure all stages over the same films, one stage after the other."""
    contents = [storage.read_bytes(file) for file in files]
    streams = [deflated(content) for content in contents if content.startswith(PNG)]
    pixels = [imaging.decode(content).pixels for content in contents]
    inputs = np.stack([preprocess.to_model_input(film) for film in pixels])
    encoder = load_encoder(spec, device, 1)
    films = [embed.Film(f"film{number}.png", film, "gray8") for number, film in enumerate(inputs)]
    batch = next(embed.embed_batches([pa.record_batch({"uri": files}, HANDLE)], encoder=encoder, root=root))
    ready = _Ready(inputs, spec, encoder.batch_size)

    def each(stage: str, way: str, do: Callable[[], object], count: int, inside: bool = False) -> Stage:
        return Stage(stage, way, 1000 * _seconds(do, repeats) / count, inside)

    def over(one: Callable[[bytes], object], items: Sequence[bytes]) -> Callable[[], object]:
        return lambda: [one(item) for item in items]

    def resize(one: Callable[[np.ndarray], object]) -> Callable[[], object]:
        return lambda: [one(film) for film in pixels]

    count, rows = len(files), batch.num_rows
    stages = [
        each("read", "ours", lambda: [storage.read_bytes(file) for file in files], count),
        each("read", "pathlib", lambda: [Path(file).read_bytes() for file in files], count),
        each("inflate", "zlib", over(zlib.decompress, streams), len(streams), inside=True),
        each("inflate", "ISA-L", over(isal_zlib.decompress, streams), len(streams), inside=True),
        each("inflate", "libdeflate", over(_libdeflate, streams), len(streams), inside=True),
        each("decode", "ours", over(imaging.decode, contents), count),
        each("decode", "torchvision", over(_torchvision_gray, contents), count),
        each("decode", "OpenCV", over(_opencv_gray, contents), count),
        each("resize", "ours", resize(preprocess.to_model_input), count),
        each("resize", "OpenCV, area", resize(_opencv_resize), count),
        each("network", "ours", lambda: encoder.embed(inputs), count),
        each("Arrow", "ours", lambda: embed._embed_films(films, ready, [Augmentation.NONE]), count),
        each("Arrow", "zero-copy list", lambda: pa.FixedSizeListArray.from_arrays(ready.flat, ready.dim), count),
        each("write", "ours: zstd", lambda: _write(batch, "zstd"), rows),
        each("write", "not compressed", lambda: _write(batch, "none"), rows),
        each("all", "ours", lambda: _all(files, root, spec, device), count),
    ]
    if device == "cpu":
        floor = OpenVinoEncoder(spec)
        stages.append(each("network", f"OpenVINO {floor.precision}", lambda: floor.embed(inputs), count))
    bound = limits.of_network(spec, encoder.batch_size, device)
    return [*stages, Stage("network", "FLOP bound", bound.flop_ms), Stage("network", "memory bound", bound.memory_ms)]


class _Ready:
    """An encoder that has its embeddings already, so that what is left is Arrow's share."""

    def __init__(self, inputs: np.ndarray, spec: EncoderSpec, batch_size: int) -> None:
        self.dim, self.fingerprint, self.precision = get_backbone(spec.backbone).dim, spec.fingerprint, "bf16"
        self.batch_size = batch_size
        self._embeddings = np.random.default_rng(0).random((len(inputs), self.dim), dtype=np.float32)
        self.flat = pa.array(self._embeddings.ravel())

    def embed(self, inputs: np.ndarray) -> np.ndarray:
        return self._embeddings[: len(inputs)]


def _seconds(do: Callable[[], object], repeats: int) -> float:
    do()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        do()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _libdeflate(stream: bytes) -> object:
    return deflate.zlib_decompress(stream, _INFLATED)


def _torchvision_gray(content: bytes) -> object:
    data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    return torchvision.io.decode_image(data, torchvision.io.ImageReadMode.GRAY)


def _opencv_gray(content: bytes) -> object:
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE)


def _opencv_resize(film: np.ndarray) -> object:
    return cv2.resize(film, (preprocess.SIDE, preprocess.SIDE), interpolation=cv2.INTER_AREA)


def _write(batch: pa.RecordBatch, compression: str) -> None:
    with pq.ParquetWriter(io.BytesIO(), EMBEDDED, compression=compression) as writer:
        writer.write_batch(batch)


def _all(files: Sequence[str], root: str, spec: EncoderSpec, device: str) -> None:
    encoder = load_encoder(spec, device, 1)
    with pq.ParquetWriter(io.BytesIO(), EMBEDDED, compression="zstd") as writer:
        for rows in embed.embed_batches([pa.record_batch({"uri": files}, HANDLE)], encoder=encoder, root=root):
            writer.write_batch(rows)


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
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    root = storage.qualify(options.images)
    names = sorted(storage.list_files(root, imaging.SUFFIXES))[: options.count]
    weights = find_weights(get_backbone(options.backbone), options.weights)
    spec = EncoderSpec(options.backbone, weights, batch_size=options.batch_size)
    stages = measure([storage.join(root, name) for name in names], root, spec, options.device, options.repeats)
    print(f"{machine.describe()}; {len(names)} films, {options.device}, one thread; ms an image")
    for stage in sorted(stages, key=lambda stage: _ORDER.index(stage.stage)):
        print(f"{stage.stage:<10}{stage.way:<20}{stage.ms:8.2f}")
    if options.json:
        options.json.write_text(json.dumps([asdict(stage) for stage in stages]))
    return 0


_ORDER = ("read", "inflate", "decode", "resize", "network", "Arrow", "write", "all")


if __name__ == "__main__":
    sys.exit(main())
