"""Images with known embeddings, and a check of data sets made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as pads

from cxrfeat.images import preprocess
from cxrfeat.spark.extract import ExtractConfig
from tests import fakes
from tests.cluster.encoders import BATCH, DIM, long_embedding
from tests.cxrfeat.spark import samples


def config(folder: Path, **options: Any) -> ExtractConfig:
    """Return the settings for ``folder/in``: rounds of 80 images, tasks of at most 64."""
    return samples.config(folder, batch_size=BATCH, **{"round_size": 80, **options})


def write_images(folder: Path, count: int, *, start: int = 0) -> None:
    """Write images by number."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(start, start + count):
        (folder / f"{index:04d}.png").write_bytes(fakes.png(fakes.gray_image(seed=index)))


def check_each_once(output: Path, count: int) -> None:
    """Check that the table has the first images, each once, with the embedding that it must have."""
    table = pads.dataset(str(output / "embeddings"), partitioning="hive").to_table().sort_by("image_path")
    assert table["image_path"].to_pylist() == [f"{index:04d}.png" for index in range(count)]
    assert table["status"].unique().to_pylist() == ["ok"]
    found = table["embedding"].combine_chunks().values.to_numpy().reshape(-1, DIM)
    expected = [long_embedding(preprocess.to_model_input(fakes.gray_image(seed=index))) for index in range(count)]
    np.testing.assert_array_equal(found, np.stack(expected))
