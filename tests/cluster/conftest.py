"""One standalone cluster for the tests of this folder: two workers, each with two made-up GPUs, and a session on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from pyspark import SparkConf, cloudpickle
from pyspark.sql import SparkSession

from cxrfeat.spark import embedding
from cxrfeat.spark.session import configure
from tests import fakes
from tests.cluster import encoders
from tests.cluster.encoders import Recorder
from tests.cluster.standalone import Cluster, write_discovery

ADDRESSES = (("2", "5"), ("3", "7"))
"""GPU addresses of each worker; on two machines they could be the same, but so a device's name says whose it is."""

CPUS_PER_TASK = 2


def without_overrides() -> Sequence[str]:
    """Return the command that makes root obey file permissions, or an empty list if this user is not root."""
    setpriv = shutil.which("setpriv")
    if os.geteuid() != 0 or setpriv is None:
        return []
    capabilities = "-dac_override,-dac_read_search"
    command = [setpriv, f"--bounding-set={capabilities}", f"--inh-caps={capabilities}"]
    return command if subprocess.run([*command, "true"], check=False, capture_output=True).returncode == 0 else []


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Start the cluster once."""
    folder = tmp_path_factory.mktemp("cluster")
    discovery = [write_discovery(folder / f"gpus-{index}.sh", found) for index, found in enumerate(ADDRESSES)]
    with Cluster(folder / "spark", cores=6, discovery=discovery, wrapper=without_overrides()) as running:
        yield running


@pytest.fixture(scope="package")
def on_cluster(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """Return a session whose tasks take one GPU and two cores each: four of them at once."""
    if SparkSession.getActiveSession() is not None:
        pytest.fail("another Spark session is alive in this process; run tests/cluster before other Spark tests")
    for module in (fakes, encoders):  # workers don't have the tests on their path: send the fakes along
        cloudpickle.register_pickle_by_value(module)  # type: ignore[no-untyped-call]
    settings = {
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.warehouse.dir": str(tmp_path_factory.mktemp("warehouse")),
        "spark.executor.memory": "512m",
        "spark.executor.cores": "4",
        "spark.cores.max": "8",  # all but what tests with jobs of their own take
        "spark.executor.resource.gpu.amount": "2",
        "spark.task.resource.gpu.amount": "1",
        "spark.task.cpus": str(CPUS_PER_TASK),
        # For the straggler; the jobs' own default is off.
        "spark.speculation": "true",
        "spark.speculation.minTaskRuntime": "1s",
        "spark.speculation.multiplier": "2",
        "spark.speculation.quantile": "0.5",
    }
    os.environ["PYSPARK_PYTHON"] = sys.executable
    conf = configure(SparkConf().setMaster(cluster.url).setAll(list(settings.items())), "tests")
    session = SparkSession.builder.config(conf=conf).getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()


@pytest.fixture
def recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Return a factory of encoders that record their calls; the driver skips loading a network."""
    monkeypatch.setattr(embedding, "check_encoder", lambda *_: None)
    (tmp_path / "calls").mkdir()
    return Recorder(tmp_path / "calls")
