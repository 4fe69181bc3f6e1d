"""Every contender computes what it is compared in: the same network's embeddings of the same images."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.machine import REPOSITORY
from benchmarks.peers.common import FROM_PIL
from cxrfeat.backbones.registry import get_backbone
from cxrfeat.backbones.weights import RANDOM, Weights, load_network

NETWORK = ("--backbone", "resnet50", "--weights", RANDOM)
INSTALLED_BY_BENCH = {"daft": "daft", "ray_data": "ray"}
SPARK_PEERS = dict.fromkeys(("predict_batch_udf", "map_in_pandas", "recipe_2018"), "daft")
"""They need nothing of the bench extra, but minutes, so they run where it is installed."""


@pytest.fixture(scope="module")
def pictures() -> dict[str, NDArray[np.uint8]]:
    """Return five images that no network takes for each other."""
    rows, columns = np.mgrid[0:96, 0:96]
    noise = np.random.default_rng(0).integers(0, 256, (96, 96))
    pictures = (rows * 2, columns * 2, noise, (rows // 8 + columns // 8) % 2 * 200, np.full((96, 96), 128))
    return {f"image{number}.png": picture.astype(np.uint8) for number, picture in enumerate(pictures)}


@pytest.fixture(scope="module")
def folder(pictures: dict[str, NDArray[np.uint8]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for number, (name, picture) in enumerate(pictures.items()):
        (root / f"deep{number % 2}").mkdir(exist_ok=True)
        Image.fromarray(picture).save(root / f"deep{number % 2}" / name)
    return root


@pytest.fixture(scope="module")
def reference(pictures: dict[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.float32]]:
    """Torchvision's network in fp32 on torchvision's transform."""
    network = load_network(get_backbone("resnet50"), Weights(None, "random-seed0"))
    inputs = torch.stack([FROM_PIL(Image.fromarray(picture).convert("RGB")) for picture in pictures.values()])
    with torch.inference_mode():
        return dict(zip(pictures, network(inputs).numpy(), strict=True))


def read_embeddings(output: Path) -> dict[str, NDArray[np.float32]]:
    """Read what a contender wrote, by file name."""
    files = [file for file in output.glob("part-0*") if not file.suffix]  # of saveAsTextFile; Parquet's have one
    texts = [line.split() for file in files for line in file.read_text().splitlines()]
    if texts:
        return {Path(path).name: np.array(values, np.float32) for path, *values in texts}
    table = ds.dataset(output, format="parquet").to_table().to_pydict()
    paths = table.get("path") or table["image_path"]
    return {
        Path(path).name: np.array(vector, np.float32) for path, vector in zip(paths, table["embedding"], strict=True)
    }


@pytest.mark.slow
@pytest.mark.parametrize("contender", CONTENDERS.values(), ids=CONTENDERS)
def test_a_contender_embeds_every_image(
    contender: Contender, folder: Path, reference: dict[str, NDArray[np.float32]], tmp_path: Path
) -> None:
    """Its embeddings are the reference's, up to rounding and the resize; its marks add up to the images."""
    package = (INSTALLED_BY_BENCH | SPARK_PEERS).get(contender.module)
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package}, of the bench extra, is not installed")
    output, marks = tmp_path / "out", tmp_path / "marks"
    command = contender.command(folder, output, marks, NETWORK)
    subprocess.run(
        command, check=True, cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    )
    found = read_embeddings(output)
    assert found.keys() == reference.keys()
    assert contender.rows(output) == len(reference)
    assert sum(mark.images for mark in contender.marks(output, marks)) == len(reference)
    for name, vector in found.items():
        distance = {other: float(np.linalg.norm(vector - theirs)) for other, theirs in reference.items()}
        second = sorted(distance.values())[1]
        assert distance[name] < 0.2 * second, (name, distance)
