"""Both jobs submitted to the cluster with the code as a zip, with a killed driver, give the tables of local[2]."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pytest

from cxrfeat.backbones.registry import get_backbone
from cxrfeat.backbones.weights import RANDOM, find_weights, fingerprint
from cxrfeat.head.bundle import save_bundle
from cxrfeat.labels.findings import ANY_FINDING, FINDINGS
from cxrfeat.phantom.archive import write_archive
from tests import fakes, third_party
from tests.cluster.standalone import Cluster
from tests.spark_jobs import jobs
from tests.test_dist import make_dist

pytestmark = [pytest.mark.cluster, pytest.mark.spark, pytest.mark.slow]


@pytest.fixture
def submit(cluster: Cluster, pytestconfig: pytest.Config, tmp_path: Path) -> list[str]:
    """Return spark-submit's options: executors of one core, whose Python has the third-party packages alone."""
    python = third_party.make_python(tmp_path / "third-party")
    _, code = make_dist(pytestconfig.rootpath, tmp_path / "dist")
    executors = ["--executor-cores", "1", "--total-executor-cores", "2", "--executor-memory", "1g"]
    worker = ["--py-files", str(code), "--conf", f"spark.pyspark.python={python}"]
    return ["--master", cluster.url, *executors, *worker, "--conf", f"spark.pyspark.driver.python={jobs.PYTHON}"]


def save_head(folder: Path) -> None:
    """Write an untrained head for the seeded random resnet50."""
    backbone = get_backbone("resnet50")
    extractor = fingerprint(backbone, find_weights(backbone, RANDOM))
    save_bundle(fakes.bundle(2048, extractor=extractor), folder)


def run_locally(extraction: list[str], scoring: list[str]) -> None:
    """Run both jobs one after the other in a single application of two threads."""
    code = f"from cxrfeat.cli import extract, score; exit(extract.main({extraction}) or score.main({scoring}))"
    environment = {**os.environ, "PYSPARK_SUBMIT_ARGS": "--master local[2] pyspark-shell"}
    subprocess.run([jobs.PYTHON, "-c", code], cwd=jobs.ROOT, env=environment, check=True)


def table_of(folder: Path) -> pa.Table:
    table = pads.dataset(str(folder), partitioning="hive").to_table()
    return table.sort_by("image_index").drop_columns(["round"])


def test_the_cluster_writes_the_tables_of_local_mode(cluster: Cluster, submit: list[str], tmp_path: Path) -> None:
    """The tables agree even if the driver is killed in the middle of a round and restarted; so do the predictions."""
    write_archive(tmp_path / "in", 30, size=64)
    metadata = ["--metadata", str(tmp_path / "in" / "Data_Entry_2017_v2020.csv")]
    options = ["--images", str(tmp_path / "in"), *metadata, "--weights", RANDOM, "--precision", "fp32"]
    options += ["--round-size", "10", "--device", "cpu"]
    there, here = tmp_path / "cluster", tmp_path / "local"
    before = cluster.applications()
    half_done = (there / "embeddings" / "round=1" / "_temporary").exists
    jobs.kill_when(jobs.start("extract", *options, "--output", str(there), submit=submit), half_done)
    printed = jobs.run("extract", *options, "--output", str(there), submit=submit)
    assert "30 listed = 30 ok + 0 quarantined" in printed
    save_head(tmp_path / "head")
    drops = ["--drops", str(here / "embeddings"), "--head", str(tmp_path / "head")]
    run_locally([*options, "--output", str(here)], [*drops, "--output", str(here / "scored")])
    remote, local = table_of(there / "embeddings"), table_of(here / "embeddings")
    assert remote.drop_columns("embedding").equals(local.drop_columns("embedding"))
    found, expected = (pc.list_flatten(table["embedding"]).to_numpy() for table in (remote, local))
    np.testing.assert_allclose(found, expected, atol=1e-4)

    jobs.run("score", *drops, "--output", str(there / "scored"), submit=submit)
    assert len(cluster.applications() - before) == 3  # two of the extraction, one of the scoring
    remote, local = table_of(there / "scored" / "predictions"), table_of(here / "scored" / "predictions")
    assert remote.num_rows == 30
    scores = [*(f"probability_{finding}" for finding in FINDINGS), ANY_FINDING]
    assert remote.drop_columns(scores).equals(local.drop_columns(scores))
    for name in scores:
        np.testing.assert_allclose(remote[name].to_numpy(), local[name].to_numpy(), atol=1e-6)
