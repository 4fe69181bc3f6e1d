"""Ray Data, as its guide to batch inference on images writes it.

python -m benchmarks.peers.ray_data --images DIR --output OUT [--weights PATH --backbone resnet50-v1]
    [--function ours|encoder]

documented  read_images → map(transform) → map_batches(class, one actor a core) → write_parquet
ours        paths → map_batches(our embedding function) → write_parquet
encoder     read_images with its own resize → map_batches(our encoder) → write_parquet

Source: Ray's documentation, "Image classification batch inference with PyTorch", "Working with images".
"""

from __future__ import annotations

from typing import Any

import numpy as np
import ray
import torch

from benchmarks.peers.common import CORES, PATHS_AT_ONCE, SIZE, Function, Task, from_array, parse

Row = dict[str, Any]


class Network:
    """The network as it comes."""

    def __init__(self, task: Task) -> None:
        self._task, self._network = task, task.network()

    def __call__(self, batch: Row) -> Row:
        embeddings = self._task.infer(torch.from_numpy(batch["inputs"]), self._network)
        return {"path": batch["path"], "embedding": embeddings}


class Embedder:
    """Our function: a batch of paths, or of images that Ray has read."""

    def __init__(self, task: Task) -> None:
        self._task, self._encoder = task, task.encoder()

    def __call__(self, batch: Row) -> Row:
        if "image" in batch:
            embeddings = self._task.encode(batch["image"], self._encoder)
        else:
            embeddings = self._task.embed_paths(batch["path"].tolist(), self._encoder)
        return {"path": batch["path"], "embedding": embeddings}


def run(task: Task) -> None:
    """Embed everything."""
    # The actors take all cores; half of one each leaves room for the tasks that read, transform and write.
    ray.init(num_cpus=CORES, include_dashboard=False, configure_logging=False)
    actors: Row = {"concurrency": CORES, "num_cpus": 0.5, "fn_constructor_args": (task,)}
    if task.function == Function.OURS:
        films = ray.data.from_items([{"path": path} for path in task.files()])
        embedded = films.map_batches(Embedder, batch_size=PATHS_AT_ONCE, **actors)
    elif task.function == Function.ENCODER:
        films = ray.data.read_images(task.images, size=SIZE, mode="L", include_paths=True)
        embedded = films.map_batches(Embedder, batch_size=task.batch_size, **actors)
    else:
        transform = from_array()

        def to_inputs(row: Row) -> Row:
            return {"path": row["path"], "inputs": np.asarray(transform(row["image"]))}

        films = ray.data.read_images(task.images, mode="RGB", include_paths=True).map(to_inputs)
        embedded = films.map_batches(Network, batch_size=task.batch_size, **actors)
    embedded.write_parquet(task.output)
    ray.shutdown()


if __name__ == "__main__":
    run(parse(__doc__, list(Function)))
