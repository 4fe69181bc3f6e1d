"""Small exact stand-ins: an encoder that is plain arithmetic, images, and files of every kind."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import safetensors.torch
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from cxrfeat.backbones.backbone import Backbone
from cxrfeat.backbones.encoder import Encoder, EncoderSpec
from cxrfeat.backbones.resnet import ResNet
from cxrfeat.backbones.resnet_fused import optimise
from cxrfeat.backbones.torchvision_models import resnet_trunk
from cxrfeat.backbones.weights import Weights
from cxrfeat.head.bundle import Bundle
from cxrfeat.head.calibration import Calibration
from cxrfeat.head.inputs import COVARIATES, Inputs
from cxrfeat.head.mlp import Head
from cxrfeat.images.preprocess import DEFAULT_INPUT
from cxrfeat.io.refs import ImageRef, to_table
from cxrfeat.labels.findings import ANY_FINDING
from cxrfeat.labels.label_set import LabelSet
from cxrfeat.labels.label_sets import NIH14

Gray8 = NDArray[np.uint8]

FAKE_DIM = 4
FAKE_BATCH = 4


class FakeEncoder:
    """An Encoder whose embedding of an image is its mean, standard deviation and centre of mass along x and y.

    Each image is computed alone in float64, so the batch has no influence. A flip or an exchange of two images changes
    the result.

    Attributes:
        calls: number of images in each call of ``embed``.
    """

    def __init__(self, fingerprint: str = "fake:0:fake", batch_size: int = FAKE_BATCH, precision: str = "fp32") -> None:
        self.dim = FAKE_DIM
        self.input = DEFAULT_INPUT
        self.fingerprint = fingerprint
        self.precision = precision
        self.batch_size = batch_size
        self.calls: list[int] = []

    def embed(self, inputs: Gray8) -> NDArray[np.float32]:
        self.calls.append(len(inputs))
        return np.array([fake_embedding(image) for image in inputs], dtype=np.float32).reshape(-1, FAKE_DIM)


def fake_embedding(image: Gray8) -> list[float]:
    """Embed one (H, W) model input as FakeEncoder does."""
    values = image.astype(np.float64)
    mass = values.sum() or 1.0
    x, y = np.arange(image.shape[1]), np.arange(image.shape[0])
    return [values.mean(), values.std(), float(values.sum(axis=0) @ x / mass), float(values.sum(axis=1) @ y / mass)]


def make_fake(spec: EncoderSpec, device: str, threads: int) -> Encoder:
    """Build a FakeEncoder from a spec: an :data:`cxrfeat.backbones.encoder.EncoderFactory` that loads nothing."""
    return FakeEncoder(spec.fingerprint, spec.batch_size or FAKE_BATCH)


def make_failing(spec: EncoderSpec, device: str, threads: int) -> Encoder:
    """Raise an error that is unrelated to the files of the worker."""
    raise RuntimeError("the GPU is on fire")


def build_small() -> ResNet:
    """Build a ResNet with one thin block per stage: 20 MB, built in milliseconds."""
    return ResNet([1, 1, 1, 1], width_per_group=4)


SMALL = Backbone(
    "small",
    2048,
    lambda _: build_small().init_weights(),
    resnet_trunk,
    skeleton=build_small,
    optimise=optimise,
)
"""A backbone for tests that need a real network but not its size; not in the registry."""

SMALL_VECTOR = replace(
    SMALL,
    name="small-vector",
    trunk=lambda network: nn.Sequential(resnet_trunk(network), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    pooling="vector",
    optimise=None,
)
"""The same network without a feature map, as a transformer with a class token."""


def gray_image(height: int = 64, width: int = 64, seed: int = 0) -> Gray8:
    """Return an (H, W) gray image without any symmetry, different for each seed."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    slope = random.uniform(50, 150) * x / width + random.uniform(20, 80) * y / height
    drawn: Gray8 = (slope + random.integers(0, 25, size=(height, width))).astype(np.uint8)
    return drawn


def encode(image: Image.Image, file_format: str, **options: Any) -> bytes:
    """Return the bytes of an image file."""
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def png(pixels: Gray8) -> bytes:
    """Return an 8-bit gray PNG."""
    return encode(Image.fromarray(pixels), "PNG")


def as_mode(mode: str) -> Callable[[Gray8], Image.Image]:
    return lambda pixels: Image.fromarray(pixels).convert(mode)


def with_alpha(pixels: Gray8) -> Image.Image:
    """Return gray as RGBA with a varying alpha, which must not change the result."""
    image = Image.fromarray(pixels).convert("RGBA")
    image.putalpha(Image.fromarray(255 - pixels))
    return image


def with_palette(pixels: Gray8) -> Image.Image:
    """Return gray as palette indices in reversed order, so that an index never equals its gray level."""
    image = Image.fromarray(255 - pixels).convert("P")
    image.putpalette([level for index in range(256) for level in [255 - index] * 3])
    return image


LEGAL: dict[str, tuple[str, Callable[[Gray8], bytes]]] = {
    "gray8 png": ("gray8", png),
    "gray16 png": ("gray16", lambda pixels: encode(Image.fromarray(pixels.astype(np.uint16) * 257), "PNG")),
    "gray1 png": ("gray1", lambda pixels: encode(Image.fromarray(pixels > 127), "PNG")),
    "graya8 png": ("graya8", lambda pixels: encode(with_alpha(pixels).convert("LA"), "PNG")),
    "rgb8 png": ("rgb8", lambda pixels: encode(as_mode("RGB")(pixels), "PNG")),
    "rgba8 png": ("rgba8", lambda pixels: encode(with_alpha(pixels), "PNG")),
    "palette8 png": ("palette8", lambda pixels: encode(with_palette(pixels), "PNG")),
    "gray8 jpeg": ("gray8", lambda pixels: encode(Image.fromarray(pixels), "JPEG")),
    "gray8 progressive jpeg": ("gray8", lambda pixels: encode(Image.fromarray(pixels), "JPEG", progressive=True)),
    "rgb8 jpeg": ("rgb8", lambda pixels: encode(as_mode("RGB")(pixels), "JPEG")),
}
"""Kind of file → its pixel format, and a function that writes an image as such a file."""


def handles(names: Iterable[str], size: int = 1000) -> Iterator[pa.RecordBatch]:
    """Yield handles of files in Arrow batches of ``size`` rows."""
    yield from to_table(map(ImageRef, names)).to_batches(size)


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return one PNG chunk with its right length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def raw_png(
    width: int, height: int, *, depth: int = 8, colour: int = 0, rows: bytes = b"", extra: Iterable[bytes] = ()
) -> bytes:
    """Return a PNG with an arbitrary header: ``rows`` are filtered scanlines, ``extra`` whole chunks."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + body


def fix_checksums(data: bytes) -> bytes:
    """Return a mutated PNG with valid checksums of all whole chunks, so that the mutation reaches the decoder."""
    fixed, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if at + 12 + length > len(data):
            break
        fixed += chunk(data[at + 4 : at + 8], data[at + 8 : at + 8 + length])
        at += 12 + length
    return bytes(fixed + data[at:])


def save_weights(path: Path, state: object) -> Weights:
    """Write a state dict, or any other object, in the format of the path's suffix."""
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)  # type: ignore[arg-type]
    else:
        torch.save(state, path)
    return Weights(path, "0" * 64)


def bundle(
    dim: int,
    *,
    covariates: tuple[str, ...] = COVARIATES,
    extractor: str = "fake:0:fake",
    seed: int = 0,
    label_set: LabelSet = NIH14,
) -> Bundle:
    """Return a bundle of an untrained head whose statistics, calibration and thresholds all change the result."""
    random = np.random.default_rng(seed)
    mean, scale = random.normal(size=dim).astype(np.float32), random.uniform(0.5, 2, dim).astype(np.float32)
    imputed = {name: {"age": 46.875, "sex": 0.5625}[name] for name in covariates}
    torch.manual_seed(seed)
    labels = label_set.outputs
    thresholds: dict[str, float | None] = {**dict.fromkeys(labels, 0.5), labels[-1]: None, ANY_FINDING: 0.9}
    return Bundle(
        head=Head(dim + len(covariates), (5, 4), len(labels)).eval(),
        inputs=Inputs(mean, scale, imputed),
        hidden=(5, 4),
        extractor=extractor,
        calibration=Calibration(np.linspace(0.5, 2, len(labels)), np.linspace(-0.5, 0.5, len(labels))),
        thresholds={"youden": thresholds, "f1": dict.fromkeys(thresholds, 0.25)},
        training={},
        label_set=label_set,
    )
