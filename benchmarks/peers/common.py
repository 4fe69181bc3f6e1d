"""What the contenders share: the command line, the network as it comes, our function, and the table they write.

Batches of 8 for all: the documents' sizes (100 by Daft, 720 by Ray, 1,024 by NVIDIA) are chosen to fill a GPU, and on a CPU
larger batches were no faster (benchmarks/LOG.md). The films are squeezed to 224 x 224 by everybody, so that every network
sees as many pixels. Threads of torch are what each framework gives: one in Spark's and Ray's workers, all cores in each of
Daft's instances and in the naive loop. Our encoder has one wherever it runs.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import nn
from torchvision import transforms

from benchmarks.steady import mark
from cxrfeat.backbones.encoder import Encoder, EncoderSpec, load_encoder
from cxrfeat.backbones.registry import BACKBONES, get_backbone
from cxrfeat.backbones.weights import find_weights, load_network
from cxrfeat.images import png_jpeg, preprocess
from cxrfeat.io import storage
from cxrfeat.io.schema import HANDLE
from cxrfeat.pipeline.embed import embed_batches

SIZE = (preprocess.SIDE, preprocess.SIDE)
CORES = os.cpu_count() or 1
PATHS_AT_ONCE = 64
"""Paths that our function gets in one call, as in our Spark tasks."""

TABLE = pa.schema([pa.field("path", pa.string()), pa.field("embedding", pa.list_(pa.float32()))])
"""What a peer writes."""


class Function(StrEnum):
    """What a peer runs on each film."""

    DOCUMENTED = "documented"  # as its documentation says
    OURS = "ours"  # our embedding function
    ENCODER = "encoder"  # its own reading, decoding and resizing, our encoder


@dataclass(frozen=True)
class Task:
    """One run of a contender.

    Attributes:
        images: folder of films.
        output: folder for what is written; it does not exist yet.
        backbone, weights: as on the command line of the jobs.
        function: what runs on each film.
        batch_size: films that the network gets at once, as documented.
        marks: file for :func:`benchmarks.steady.mark`, or None.
    """

    images: str
    output: str
    backbone: str
    weights: str
    function: Function
    batch_size: int
    marks: str | None

    def files(self) -> list[str]:
        """Return the films' paths, sorted."""
        return [storage.join(self.images, name) for name in sorted(storage.list_files(self.images, png_jpeg.SUFFIXES))]

    def mark(self, films: int) -> None:
        """Note that films are finished."""
        mark(self.marks, films)

    def network(self) -> nn.Module:
        """Return torchvision's network as it comes, without its classifier: fp32, eval mode; loaded once a process."""
        return _network(self)

    def spec(self) -> EncoderSpec:
        """Return what our encoder is made of; the weights' file is read for it."""
        return EncoderSpec(self.backbone, find_weights(get_backbone(self.backbone), self.weights))

    def encoder(self) -> Encoder:
        """Return our encoder on one thread; loaded once a process."""
        return _encoder(self)

    def embed_paths(self, paths: Sequence[str], encoder: Encoder) -> NDArray[np.float32]:
        """Run our embedding function as our Spark tasks do, marks included; return (N, dim) embeddings."""
        parts = []
        for rows in embed_batches([pa.record_batch({"uri": list(paths)}, HANDLE)], encoder=encoder, root=self.images):
            self.mark(rows.num_rows)
            parts.append(to_matrix(rows.column("embedding")))
        return np.concatenate(parts)

    def embed_bytes(self, contents: Iterable[bytes], encoder: Encoder) -> NDArray[np.float32]:
        """Run our decoder, resize and encoder on whole files; return (N, dim) embeddings."""
        inputs = [preprocess.to_model_input(png_jpeg.decode(content).pixels) for content in contents]
        return self.encode(np.stack(inputs), encoder)

    def encode(self, inputs: NDArray[np.uint8], encoder: Encoder) -> NDArray[np.float32]:
        """Run our encoder on (N, 224, 224) uint8, and mark."""
        embeddings = encoder.embed(inputs)
        self.mark(len(embeddings))
        return embeddings

    def infer(self, inputs: torch.Tensor, network: nn.Module) -> NDArray[np.float32]:
        """Run a network on (N, 3, 224, 224) float32, and mark."""
        with torch.no_grad():
            embeddings: NDArray[np.float32] = network(inputs).numpy()
        self.mark(len(embeddings))
        return embeddings


@functools.cache
def _network(task: Task) -> nn.Module:
    entry = get_backbone(task.backbone)
    network: nn.Module = load_network(entry, find_weights(entry, task.weights))
    return network


@functools.cache
def _encoder(task: Task) -> Encoder:
    return load_encoder(task.spec(), "cpu", 1)


def to_matrix(column: pa.ListArray) -> NDArray[np.float32]:
    """View a list column without nulls as (N, D)."""
    matrix: NDArray[np.float32] = column.flatten().to_numpy().reshape(len(column), -1)
    return matrix


def to_lists(embeddings: NDArray[np.float32]) -> pa.ListArray:
    """Wrap (N, D) as a list column."""
    offsets = np.arange(0, embeddings.size + 1, embeddings.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(embeddings.ravel()))


def from_pil() -> transforms.Compose:
    """Return torchvision's usual transform of a PIL image."""
    return transforms.Compose(
        [
            transforms.Resize(SIZE),
            transforms.ToTensor(),
            transforms.Normalize(preprocess.IMAGENET_MEAN, preprocess.IMAGENET_STD),
        ]
    )


def from_array() -> transforms.Compose:
    """Return the transform of an (H, W, 3) array in the order of Ray's and Daft's examples: first a tensor, then small."""
    return transforms.Compose(
        [
            transforms.ToTensor(),
            transforms.Resize(SIZE, antialias=True),
            transforms.Normalize(preprocess.IMAGENET_MEAN, preprocess.IMAGENET_STD),
        ]
    )


def parse(
    description: str | None, functions: Sequence[Function], batch_size: int = 8, argv: Sequence[str] | None = None
) -> Task:
    """Read a contender's command line; the first of ``functions`` is the default."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", required=True, help="folder of PNG or JPEG films")
    parser.add_argument("--output", required=True, help="folder to be made")
    parser.add_argument("--backbone", choices=sorted(BACKBONES), default="resnet50")
    parser.add_argument("--weights", default="random", help="file or name (default: an untrained network)")
    parser.add_argument("--function", type=Function, choices=functions, default=functions[0], help="runs on each film")
    parser.add_argument("--batch-size", type=int, default=batch_size, help="films at once, as documented")
    parser.add_argument("--marks", help="file that gets a line with the time for every batch that is finished")
    options = vars(parser.parse_args(sys.argv[1:] if argv is None else argv))
    return Task(**{**options, "images": storage.qualify(options["images"])})
