"""Small data sets for extraction in one process: images, their metadata, and a run with the fake encoder."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
from pyspark.sql import SparkSession

from cxrfeat.spark.embedding import EmbeddingConfig
from cxrfeat.spark.extract import ExtractConfig, extract
from tests import fakes

HEADER = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position\n"


def write_images(folder: Path, count: int, *, start: int = 0) -> None:
    for index in range(start, start + count):
        path = folder / f"images_{index % 3:03d}" / "images" / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(fakes.png(fakes.gray_image(seed=index)))


def write_metadata(path: Path, indices: list[int]) -> str:
    lines = [
        f"{index:04d}.png,{'Mass' if index % 2 else 'No Finding'},0,{index // 2},{20 + index},F,PA\n"
        for index in indices
    ]
    path.write_text(HEADER + "".join(lines))
    return str(path)


def config(folder: Path, **options: Any) -> ExtractConfig:
    """Return the settings for ``folder/in``; options that EmbeddingConfig has go there."""
    given = {"images": str(folder / "in"), "output": str(folder / "out"), "weights": "random", **options}
    if isinstance(given.get("metadata"), str):
        given["metadata"] = (given["metadata"],)
    embedding = {field.name: given.pop(field.name) for field in fields(EmbeddingConfig) if field.name in given}
    return ExtractConfig(EmbeddingConfig(**embedding), **given)


def run(spark: SparkSession, tmp_path: Path, **options: Any) -> dict[str, Any]:
    return dict(extract(spark, config(tmp_path, **{"round_size": 7, **options}), fakes.make_fake))


def rows_of(output: Path) -> pa.Table:
    table = pads.dataset(str(output / "embeddings"), partitioning="hive").to_table()
    return table.sort_by([("image_path", "ascending"), ("augmentation", "descending")])
