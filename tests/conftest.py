"""Fixtures and settings of all tests: deterministic Hypothesis, one torch thread, Spark, S3 and real data."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import safetensors.torch
import torch
import torchvision
from hypothesis import settings
from torch import nn

from tests import s3

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

settings.register_profile("deterministic", derandomize=True, deadline=None, database=None)
settings.load_profile("deterministic")
torch.set_num_threads(1)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark all tests that use the Spark session or the real data, so that ``-m`` can deselect them."""
    for name in ("spark", "shared"):
        if name in getattr(item, "fixturenames", ()):
            item.add_marker(name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files with slow jobs first: they wait for other processes, while the rest keeps the cores busy."""
    marks = {item.path: set[str]() for item in items}
    for item in items:
        marks[item.path].update(mark.name for mark in item.iter_markers())
    items.sort(key=lambda item: -len({"slow", "spark"} & marks[item.path]))


@pytest.fixture(scope="session", autouse=True)
def _own_configuration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep tests, and the programs that they start, out of the user's configuration folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("configuration")))
        yield


@pytest.fixture(scope="session")
def shared(pytestconfig: pytest.Config) -> Path:
    """Return the folder of real images and weights beside the checkout; tests that use it are marked `shared`."""
    folder = pytestconfig.rootpath.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"no real images and weights: {folder} does not exist")
    return folder


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """Return one small local session for all tests that need Spark; it starts with the first of them."""
    from pyspark import cloudpickle
    from pyspark.sql import SparkSession

    from tests import fakes

    # Workers don't have the tests on their path: send the fakes along.
    cloudpickle.register_pickle_by_value(fakes)  # type: ignore[no-untyped-call]
    scratch = tmp_path_factory.mktemp("spark")
    builder = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.sql.warehouse.dir", str(scratch / "warehouse"))
        .config("spark.local.dir", str(scratch / "local"))
    )
    os.environ["PYSPARK_PYTHON"] = sys.executable
    session = builder.getOrCreate()
    yield session
    session.stop()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the URL of an S3 server that starts with the first test that needs it."""
    program = s3.find_server()
    if program is None:
        pytest.skip("no moto_server beside the interpreter; `make test` installs it")
    with s3.serve(program, tmp_path_factory.mktemp("s3") / "server.log") as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the URI of a new bucket; endpoint, region and credentials are in the environment, as users have them."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {**s3.ENVIRONMENT, "AWS_ENDPOINT_URL": s3_server}.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{uuid.uuid4()}"  # file systems are cached by bucket, so each test needs a new one
    s3.make_bucket(s3_server, name)
    return f"s3a://{name}"


@pytest.fixture(scope="session")
def trained() -> dict[str, torch.Tensor]:
    """Return a state dict of resnet50 without fc that resembles trained weights; tests must not change it.

    Convolutions are PyTorch's random ones. BatchNorm has random scales and shifts, small ones at the end of a block,
    and the statistics of a batch of smooth images, so features differ between images as with real weights.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(7)
        network = torchvision.models.resnet50().train()
        for name, module in network.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
                module.weight.uniform_(*((0.1, 0.3) if name.endswith("bn3") else (0.5, 1.0)))
                module.bias.normal_(0.0, 0.2)
        smooth = nn.functional.interpolate(torch.randn(8, 3, 8, 8), (96, 96), mode="bicubic")
        network(smooth + 0.3 * torch.randn(8, 3, 96, 96))
    return {name: value for name, value in network.state_dict().items() if not name.startswith("fc.")}


@pytest.fixture(scope="session")
def trained_file(trained: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a .safetensors file with `trained`, 100 MB that are removed at the end."""
    path = tmp_path_factory.mktemp("weights") / "trained.safetensors"
    safetensors.torch.save_file(trained, path)
    yield path
    path.unlink()
