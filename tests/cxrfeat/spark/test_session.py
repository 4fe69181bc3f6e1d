"""The session's defaults, and who may override them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pyspark import SparkConf
from pyspark.sql import SparkSession

from cxrfeat.errors import JavaError
from cxrfeat.spark.session import WORKER_ENVIRONMENT, configure, open_session


def test_defaults_fill_gaps_and_override_nothing() -> None:
    """What spark-submit has set stays; what nobody has set is ours, the workers' allocator included."""
    given = SparkConf(loadDefaults=False).set("spark.speculation", "true").set("spark.master", "spark://host:7077")
    conf = configure(given, "extract")
    assert conf.get("spark.speculation") == "true"
    assert conf.get("spark.master") == "spark://host:7077"
    assert conf.get("spark.app.name") == "extract"
    assert conf.get("spark.dynamicAllocation.enabled") == "false"
    for name, value in WORKER_ENVIRONMENT.items():
        assert conf.get(f"spark.executorEnv.{name}") == value


def test_without_java_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing Java is our one-line error, before Spark can print a stack trace."""
    monkeypatch.setenv("JAVA_HOME", "nowhere")
    with pytest.raises(JavaError, match="JAVA_HOME=nowhere holds no bin/java"):
        open_session("extract")


def test_a_running_session_is_joined(spark: SparkSession) -> None:
    """In a notebook or a test that has a session, the jobs use that one."""
    assert open_session("another").sparkContext is spark.sparkContext


@pytest.mark.slow
def test_spark_submit_has_the_last_word(tmp_path: Path) -> None:
    """Master and settings of the command line hold in a real submission, where they are known to the JVM alone at first."""
    script = tmp_path / "say.py"
    script.write_text(
        "from cxrfeat.spark.session import open_session\n"
        "spark = open_session('say')\n"
        "print('say', spark.sparkContext.master, spark.conf.get('spark.sql.shuffle.partitions'),"
        " spark.conf.get('spark.sql.parquet.compression.codec'))\n"
    )
    submit = str(Path(sys.executable).with_name("spark-submit"))
    options = ("--master", "local[3]", "--conf", "spark.sql.shuffle.partitions=5", "--conf", "spark.ui.enabled=false")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [submit, *options, str(script)], env=environment, capture_output=True, text=True, check=False
    )
    assert "say local[3] 5 zstd" in result.stdout, result.stderr
