"""Shared parts of the contenders: command line, torchvision's network, our function, and the table they write.

Batches of 8 for all: the documented sizes (100 by Daft, 720 by Ray, 1,024 by NVIDIA) fill a GPU, and on a CPU larger
batches were no faster (benchmarks/LOG.md). All resize to 224 x 224 without a crop, so that every network sees as many
pixels. Torch has the threads that each framework gives it: one in Spark's and Ray's workers, all cores in each of
Daft's instances and in the naive loop. Our encoder has one everywhere.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import nn
from torchvision import transforms

from benchmarks.steady import mark
from cxrfeat.backbones.encoder import Encoder, EncoderSpec, open_encoder
from cxrfeat.backbones.registry import BACKBONES, get_backbone
from cxrfeat.backbones.weights import Weights, find_weights, load_network
from cxrfeat.images import preprocess
from cxrfeat.images.candidates import SUFFIXES
from cxrfeat.io import listing, storage
from cxrfeat.io.refs import ImageRef, to_table
from cxrfeat.pipeline.embed import embed_batches

SIZE = (preprocess.SIDE, preprocess.SIDE)
PATHS_PER_CALL = 64
"""Paths that our function gets in one call, as in our Spark tasks."""

TABLE = pa.schema([pa.field("path", pa.string()), pa.field("embedding", pa.list_(pa.float32()))])
"""Schema of a peer's output."""


@dataclass(frozen=True)
class PeerTask:
    """One run of a contender.

    Attributes:
        images: folder of images.
        output: folder to write, which does not exist yet.
        backbone, weights: as on the command line of the jobs.
        batch_size: images per batch of torchvision's network.
        marks: file for :func:`benchmarks.steady.mark`, or None.
        ours: True to run our embedding function instead of the documented code.
    """

    images: str
    output: str
    backbone: str
    weights: str
    batch_size: int
    marks: str | None
    ours: bool = False

    def files(self) -> list[str]:
        """Return the paths of the images, sorted."""
        return [storage.join(self.images, name) for name in sorted(listing.list_files(self.images, SUFFIXES))]

    def mark(self, images: int) -> None:
        """Record that images are finished."""
        mark(self.marks, images)

    def network(self) -> nn.Module:
        """Return torchvision's network without its classifier, in fp32 and eval mode; loaded once per process."""
        return _network(self)

    def encoder(self) -> Encoder:
        """Return our encoder on one thread; loaded once per process."""
        return open_encoder(EncoderSpec(self.backbone, _find_weights(self)), "cpu", 1)

    def embed_paths(self, paths: Sequence[str], encoder: Encoder) -> NDArray[np.float32]:
        """Run our embedding function as our Spark tasks do and mark the batches; return (N, dim) embeddings."""
        parts = []
        items = (ImageRef(storage.relative_to(path, self.images)) for path in paths)
        for rows in embed_batches(to_table(items).to_batches(), encoder=encoder, root=self.images):
            self.mark(rows.num_rows)
            parts.append(rows.column("embedding").flatten().to_numpy().reshape(rows.num_rows, -1))
        return np.concatenate(parts)

    def infer(self, inputs: torch.Tensor, network: nn.Module) -> NDArray[np.float32]:
        """Run a network on (N, 3, 224, 224) float32, and mark."""
        with torch.no_grad():
            embeddings: NDArray[np.float32] = network(inputs).numpy()
        self.mark(len(embeddings))
        return embeddings


@functools.cache
def _find_weights(task: PeerTask) -> Weights:
    return find_weights(get_backbone(task.backbone), task.weights)


@functools.cache
def _network(task: PeerTask) -> nn.Module:
    network: nn.Module = load_network(get_backbone(task.backbone), _find_weights(task))
    return network


def to_lists(embeddings: NDArray[np.float32]) -> pa.ListArray:
    """Return (N, D) embeddings as a list column."""
    offsets = np.arange(0, embeddings.size + 1, embeddings.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(embeddings.ravel()))


NORMALIZE = transforms.Normalize(preprocess.IMAGENET_MEAN, preprocess.IMAGENET_STD)

FROM_PIL = transforms.Compose([transforms.Resize(SIZE), transforms.ToTensor(), NORMALIZE])
"""Torchvision's usual transform of a PIL image."""

FROM_ARRAY = transforms.Compose([transforms.ToTensor(), transforms.Resize(SIZE, antialias=True), NORMALIZE])
"""Transform of an (H, W, 3) array in the order of Ray's and Daft's examples: first a tensor, then the resize."""


def parse(description: str | None, *, ours: bool = False) -> PeerTask:
    """Parse a contender's command line; ``ours`` adds the option ``--ours``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", required=True, help="folder of PNG or JPEG images")
    parser.add_argument("--output", required=True, help="folder to create")
    parser.add_argument("--backbone", choices=sorted(BACKBONES), default="resnet50")
    parser.add_argument("--weights", default="random", help="file or name (default: an untrained network)")
    parser.add_argument("--batch-size", type=int, default=8, help="of torchvision's network (default 8)")
    parser.add_argument("--marks", help="file that gets a line with the time for every finished batch")
    if ours:
        parser.add_argument("--ours", action="store_true", help="run our embedding function instead")
    options = vars(parser.parse_args())
    return PeerTask(**{**options, "images": storage.qualify(options["images"])})
