"""Daft, as its documentation and its own image-classification benchmark write it.

documented  glob → download → decode → apply(transform) → class UDF, one instance per core → write_parquet
--ours      glob → class UDF with our embedding function → write_parquet

Source: Eventual-Inc/Daft, benchmarking/ai/image_classification/daft_main.py; Daft's guide to images.
"""

from __future__ import annotations

from collections.abc import Callable

import daft
import numpy as np
import pyarrow as pa
import torch
from daft import DataType, Expression, ImageMode, Series, col

from benchmarks.machine import CORES
from benchmarks.peers.common import FROM_ARRAY, PATHS_PER_CALL, SIZE, PeerTask, parse, to_lists

EMBEDDING = DataType.list(DataType.float32())


class DaftNetwork:
    """Torchvision's network."""

    def __init__(self, task: PeerTask) -> None:
        self._task, self._network = task, task.network()

    def __call__(self, inputs: Series) -> pa.Array:
        batch = torch.from_numpy(np.array(inputs.to_pylist()))  # (B, 3, 224, 224)
        return to_lists(self._task.infer(batch, self._network))


class DaftEmbedder:
    """Our embedding function."""

    def __init__(self, task: PeerTask) -> None:
        self._task, self._encoder = task, task.encoder()

    def __call__(self, paths: Series) -> pa.Array:
        return to_lists(self._task.embed_paths([path.removeprefix("file://") for path in paths], self._encoder))


def _udf(kind: type, task: PeerTask, batch_size: int) -> Callable[[Expression], Expression]:
    """Return ``kind`` as ``@daft.cls`` and ``@daft.method.batch`` make it, one instance per core."""
    daft.method.batch(kind.__call__, return_dtype=EMBEDDING, batch_size=batch_size)
    instance: Callable[[Expression], Expression] = daft.cls(kind, max_concurrency=CORES)(task)
    return instance


def run(task: PeerTask) -> None:
    """Embed all images."""
    images = daft.from_glob_path(f"{task.images}/**/*.png")
    if task.ours:
        embedding = _udf(DaftEmbedder, task, PATHS_PER_CALL)(col("path"))
    else:
        tensor = DataType.tensor(DataType.float32(), (3, *SIZE))
        decoded = col("path").download().decode_image(mode=ImageMode.RGB)
        inputs = decoded.apply(lambda image: FROM_ARRAY(image).numpy(), return_dtype=tensor)
        embedding = _udf(DaftNetwork, task, task.batch_size)(inputs)
    images.with_column("embedding", embedding).select("path", "embedding").write_parquet(task.output)


if __name__ == "__main__":
    run(parse(__doc__, ours=True))
