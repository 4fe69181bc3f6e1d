"""Ray Data, as its guide to batch inference on images writes it.

documented  read_images → map(transform) → map_batches(class, one actor per core) → write_parquet
--ours      paths → map_batches(our embedding function) → write_parquet

Source: Ray's documentation, "Image classification batch inference with PyTorch", "Working with images".
"""

from __future__ import annotations

from typing import Any

import numpy as np
import ray
import torch

from benchmarks.machine import CORES
from benchmarks.peers.common import FROM_ARRAY, PATHS_PER_CALL, PeerTask, parse

Row = dict[str, Any]


class RayNetwork:
    """Torchvision's network."""

    def __init__(self, task: PeerTask) -> None:
        self._task, self._network = task, task.network()

    def __call__(self, batch: Row) -> Row:
        embeddings = self._task.infer(torch.from_numpy(batch["inputs"]), self._network)
        return {"path": batch["path"], "embedding": embeddings}


class RayEmbedder:
    """Our embedding function."""

    def __init__(self, task: PeerTask) -> None:
        self._task, self._encoder = task, task.encoder()

    def __call__(self, batch: Row) -> Row:
        embeddings = self._task.embed_paths(batch["path"].tolist(), self._encoder)
        return {"path": batch["path"], "embedding": embeddings}


def _to_inputs(row: Row) -> Row:
    return {"path": row["path"], "inputs": np.asarray(FROM_ARRAY(row["image"]))}


def run(task: PeerTask) -> None:
    """Embed all images."""
    # The actors take all cores; half of one each leaves room for the tasks that read, transform and write.
    ray.init(num_cpus=CORES, include_dashboard=False, configure_logging=False)
    actors: Row = {"concurrency": CORES, "num_cpus": 0.5, "fn_constructor_args": (task,)}
    if task.ours:
        images = ray.data.from_items([{"path": path} for path in task.files()])
        embedded = images.map_batches(RayEmbedder, batch_size=PATHS_PER_CALL, **actors)
    else:
        images = ray.data.read_images(task.images, mode="RGB", include_paths=True).map(_to_inputs)
        embedded = images.map_batches(RayNetwork, batch_size=task.batch_size, **actors)
    embedded.write_parquet(task.output)
    ray.shutdown()


if __name__ == "__main__":
    run(parse(__doc__, ours=True))
