"""The recipe of 2018: an RDD of paths, a map with batches of one, lines of text.

python -m benchmarks.peers.recipe_2018 --images DIR --output OUT [--weights PATH --backbone resnet50-v1]
    [--function ours]

As the system of 2018 did it: PIL → Resize → ToTensor → Normalize → ResNet50 in fp32, one film at a time, saveAsTextFile.
It kept the network in each worker process, and so does this. ``ours`` puts our decoder and encoder into the same map.
"""

from __future__ import annotations

import functools
from pathlib import Path

from PIL import Image

from benchmarks.peers.common import CORES, Function, Task, from_pil, parse
from benchmarks.peers.spark import open_session


def _embed(path: str, task: Task) -> str:
    if task.function == Function.OURS:
        embeddings = task.embed_bytes([Path(path).read_bytes()], task.encoder())
    else:
        inputs = from_pil()(Image.open(path).convert("RGB")).unsqueeze(0)
        embeddings = task.infer(inputs, task.network())
    return " ".join([path, *map(str, embeddings[0].tolist())])


def run(task: Task) -> None:
    """Embed everything."""
    spark = open_session("recipe-2018")
    paths = spark.sparkContext.parallelize(task.files(), CORES)
    paths.map(functools.partial(_embed, task=task)).saveAsTextFile(task.output)
    spark.stop()


if __name__ == "__main__":
    run(parse(__doc__, [Function.DOCUMENTED, Function.OURS], 1))
