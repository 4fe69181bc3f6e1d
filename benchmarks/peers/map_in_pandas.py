"""mapInPandas over binaryFile, as Databricks' notebooks on distributed image inference with PyTorch write it.

python -m benchmarks.peers.map_in_pandas --images DIR --output OUT [--weights PATH --backbone resnet50-v1]
    [--function ours]

The weights are broadcast; each task builds the network, wraps a batch's files in a Dataset and a DataLoader, and yields
frames. ``ours`` decodes and embeds the same frames with our decoder and encoder.

Source: Databricks, "Distributed inference via PyTorch and pandas UDF" (reference solution for image applications).
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benchmarks.peers.common import Function, Task, from_pil, parse
from benchmarks.peers.spark import open_session, read_films
from cxrfeat.backbones.registry import get_backbone

SCHEMA = "path string, embedding array<float>"


class Films(Dataset[torch.Tensor]):
    """Model inputs of whole files."""

    def __init__(self, contents: Sequence[bytes]) -> None:
        self._contents, self._transform = contents, from_pil()

    def __len__(self) -> int:
        return len(self._contents)

    def __getitem__(self, index: int) -> torch.Tensor:
        inputs: torch.Tensor = self._transform(Image.open(io.BytesIO(self._contents[index])).convert("RGB"))
        return inputs


def run(task: Task) -> None:
    """Embed everything."""
    spark = open_session("map-in-pandas")
    state = spark.sparkContext.broadcast(task.network().state_dict())

    def documented(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        network = get_backbone(task.backbone).build()
        network.fc = torch.nn.Identity()
        network.load_state_dict(state.value)
        network.eval()
        for frame in frames:
            loader = DataLoader(Films(frame["content"].tolist()), batch_size=task.batch_size)
            embeddings = np.concatenate([task.infer(inputs, network) for inputs in loader])
            yield pd.DataFrame({"path": frame["path"], "embedding": list(embeddings)})

    def ours(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        encoder = task.encoder()
        for frame in frames:
            contents = frame["content"].tolist()
            parts = (contents[at : at + encoder.batch_size] for at in range(0, len(contents), encoder.batch_size))
            embeddings = np.concatenate([task.embed_bytes(part, encoder) for part in parts])
            yield pd.DataFrame({"path": frame["path"], "embedding": list(embeddings)})

    embed = ours if task.function == Function.OURS else documented
    read_films(spark, task.images).mapInPandas(embed, SCHEMA).write.parquet(task.output)
    spark.stop()


if __name__ == "__main__":
    run(parse(__doc__, [Function.DOCUMENTED, Function.OURS]))
