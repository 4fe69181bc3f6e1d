"""Daft, as its documentation and its own image-classification benchmark write it.

python -m benchmarks.peers.daft --images DIR --output OUT [--weights PATH --backbone resnet50-v1]
    [--function ours|encoder]

documented  glob → download → decode → apply(transform) → class UDF, one instance a core → write_parquet
ours        glob → class UDF with our embedding function → write_parquet
encoder     glob → download → decode → resize, all of them Daft's own → class UDF with our encoder → write_parquet

Source: Eventual-Inc/Daft, benchmarking/ai/image_classification/daft_main.py; Daft's guide to images.
"""

from __future__ import annotations

from collections.abc import Callable

import daft
import numpy as np
import pyarrow as pa
import torch
from daft import DataType, Expression, ImageMode, Series, col

from benchmarks.peers.common import CORES, PATHS_AT_ONCE, SIZE, Function, Task, from_array, parse, to_lists

EMBEDDING = DataType.list(DataType.float32())


class Network:
    """The network as it comes."""

    def __init__(self, task: Task) -> None:
        self._task, self._network = task, task.network()

    def __call__(self, inputs: Series) -> pa.Array:
        batch = torch.from_numpy(np.array(inputs.to_pylist()))
        return to_lists(self._task.infer(batch, self._network))


class PathEmbedder:
    """Our embedding function."""

    def __init__(self, task: Task) -> None:
        self._task, self._encoder = task, task.encoder()

    def __call__(self, paths: Series) -> pa.Array:
        return to_lists(self._task.embed_paths([path.removeprefix("file://") for path in paths], self._encoder))


class ImageEncoder:
    """Our encoder, on images that Daft has decoded and resized."""

    def __init__(self, task: Task) -> None:
        self._task, self._encoder = task, task.encoder()

    def __call__(self, images: Series) -> pa.Array:
        batch = np.stack(images.to_pylist()).reshape(-1, *SIZE)
        return to_lists(self._task.encode(batch, self._encoder))


def _udf(kind: type, task: Task, batch_size: int) -> Callable[[Expression], Expression]:
    """Return ``kind`` as ``@daft.cls`` and ``@daft.method.batch`` make it, one instance a core."""
    daft.method.batch(kind.__call__, return_dtype=EMBEDDING, batch_size=batch_size)
    instance: Callable[[Expression], Expression] = daft.cls(kind, max_concurrency=CORES)(task)
    return instance


def run(task: Task) -> None:
    """Embed everything."""
    films = daft.from_glob_path(f"{task.images}/**/*.png")
    decoded = col("path").download().decode_image
    if task.function == Function.OURS:
        films = films.with_column("embedding", _udf(PathEmbedder, task, PATHS_AT_ONCE)(col("path")))
    elif task.function == Function.ENCODER:
        images = decoded(mode=ImageMode.L).resize(*SIZE)
        films = films.with_column("embedding", _udf(ImageEncoder, task, task.batch_size)(images))
    else:
        transform, tensor = from_array(), DataType.tensor(DataType.float32(), (3, *SIZE))
        inputs = decoded(mode=ImageMode.RGB).apply(lambda image: transform(image).numpy(), return_dtype=tensor)
        films = films.with_column("embedding", _udf(Network, task, task.batch_size)(inputs))
    films.select("path", "embedding").write_parquet(task.output)


if __name__ == "__main__":
    run(parse(__doc__, list(Function)))
