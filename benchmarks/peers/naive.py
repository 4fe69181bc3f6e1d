"""A first script: Pillow RGB → Resize → ToTensor → Normalize → torchvision's ResNet50, fp32, one process.

Torch has its default number of threads, one per core.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from benchmarks.peers.common import FROM_PIL, TABLE, PeerTask, parse, to_lists


def run(task: PeerTask) -> None:
    """Embed all images."""
    Path(task.output).mkdir(parents=True)
    network, files = task.network(), task.files()
    with pq.ParquetWriter(Path(task.output, "embeddings.parquet"), TABLE) as writer:
        for start in range(0, len(files), task.batch_size):
            batch = files[start : start + task.batch_size]
            inputs = torch.stack([FROM_PIL(Image.open(file).convert("RGB")) for file in batch])  # (B, 3, 224, 224)
            writer.write_batch(pa.record_batch([batch, to_lists(task.infer(inputs, network))], schema=TABLE))


if __name__ == "__main__":
    run(parse(__doc__))
