"""A first script: Pillow RGB → Resize → ToTensor → Normalize → torchvision's ResNet50 as it comes, fp32, one process.

python -m benchmarks.peers.naive --images DIR --output OUT [--weights PATH --backbone resnet50-v1] [--batch-size 8]

Torch has the threads that it takes by itself: one a core.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from benchmarks.peers.common import TABLE, Function, Task, from_pil, parse, to_lists


def run(task: Task) -> None:
    """Embed everything."""
    Path(task.output).mkdir(parents=True)
    network, transform, files = task.network(), from_pil(), task.files()
    with pq.ParquetWriter(Path(task.output, "embeddings.parquet"), TABLE) as writer:
        for start in range(0, len(files), task.batch_size):
            batch = files[start : start + task.batch_size]
            inputs = torch.stack([transform(Image.open(file).convert("RGB")) for file in batch])
            writer.write_batch(pa.record_batch([batch, to_lists(task.infer(inputs, network))], schema=TABLE))


if __name__ == "__main__":
    run(parse(__doc__, [Function.DOCUMENTED]))
