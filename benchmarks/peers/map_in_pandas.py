"""mapInPandas over binaryFile, as Databricks' notebooks on distributed image inference with PyTorch write it.

The weights are broadcast; each task builds the network, and wraps a batch's files in a Dataset and a DataLoader.

Source: Databricks, "Distributed inference via PyTorch and pandas UDF" (reference solution for image applications).
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benchmarks.peers.common import FROM_PIL, PeerTask, parse
from benchmarks.peers.spark import open_session, read_images
from cxrfeat.backbones.registry import get_backbone
from cxrfeat.images import preprocess

SCHEMA = "path string, embedding array<float>"


class FileImages(Dataset[torch.Tensor]):
    """Model inputs of whole files, (3, 224, 224) each."""

    def __init__(self, contents: Sequence[bytes]) -> None:
        self._contents = contents

    def __len__(self) -> int:
        return len(self._contents)

    def __getitem__(self, index: int) -> torch.Tensor:
        inputs: torch.Tensor = FROM_PIL(Image.open(io.BytesIO(self._contents[index])).convert("RGB"))
        return inputs


def run(task: PeerTask) -> None:
    """Embed all images."""
    spark = open_session("map-in-pandas")
    state = spark.sparkContext.broadcast(task.network().state_dict())

    def embed(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        network: Any = get_backbone(task.backbone).build(preprocess.SIDE)
        network.fc = torch.nn.Identity()
        network.load_state_dict(state.value)
        network.eval()
        for frame in frames:
            loader = DataLoader(FileImages(frame["content"].tolist()), batch_size=task.batch_size)
            embeddings = np.concatenate([task.infer(inputs, network) for inputs in loader])
            yield pd.DataFrame({"path": frame["path"], "embedding": list(embeddings)})

    read_images(spark, task.images).mapInPandas(embed, SCHEMA).write.parquet(task.output)
    spark.stop()


if __name__ == "__main__":
    run(parse(__doc__))
