"""The recipe of 2018: an RDD of paths, a map with batches of one, lines of text.

As the system of 2018 did it: PIL → Resize → ToTensor → Normalize → ResNet50 in fp32, one image at a time,
saveAsTextFile. That system kept the network in each worker process; so does this.
"""

from __future__ import annotations

import functools

from PIL import Image

from benchmarks.machine import CORES
from benchmarks.peers.common import FROM_PIL, PeerTask, parse
from benchmarks.peers.spark import open_session


def _embed(path: str, task: PeerTask) -> str:
    inputs = FROM_PIL(Image.open(path).convert("RGB")).unsqueeze(0)  # (1, 3, 224, 224)
    return " ".join([path, *map(str, task.infer(inputs, task.network())[0].tolist())])


def run(task: PeerTask) -> None:
    """Embed all images."""
    spark = open_session("recipe-2018")
    paths = spark.sparkContext.parallelize(task.files(), CORES)
    paths.map(functools.partial(_embed, task=task)).saveAsTextFile(task.output)
    spark.stop()


if __name__ == "__main__":
    run(parse(__doc__))
