"""The Spark session of both jobs: our defaults, which any ``spark-submit --conf`` overrides."""

from __future__ import annotations

import os
import signal
import sys
import threading

from pyspark import SparkConf, SparkContext
from pyspark.sql import SparkSession

from cxrfeat.java import find_java

WORKER_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 1024**2),
    "MALLOC_TRIM_THRESHOLD_": str(1024**3),
    "MALLOC_TOP_PAD_": str(64 * 1024**2),
}
"""glibc gives large freed blocks back to the kernel and takes them again as page faults; a network's activations are
just that, batch after batch. See benchmarks/LOG.md."""

_DEFAULTS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.ui.showConsoleProgress": "false",  # we draw our own bar
    "spark.sql.streaming.numRecentProgressUpdates": "1",
    # A stage's tasks are few and long: a second copy of one, or executors that come and go, only waste GPUs.
    "spark.speculation": "false",
    "spark.dynamicAllocation.enabled": "false",
    # A round's files are looked up again when it starts; thousands of one-file tasks would take longer than that.
    "spark.sql.sources.parallelPartitionDiscovery.parallelism": "16",
    # What we shuffle is small: metadata, and one round's rows.
    "spark.sql.shuffle.partitions": "8",
    # Parquet that others read fast: zstd, and no dictionary attempt on float vectors.
    "spark.sql.parquet.compression.codec": "zstd",
}


def open_session(app_name: str) -> SparkSession:
    """Start (or join) the session; ``spark-submit`` and ``spark-defaults.conf`` have the last word on every setting.

    Raises:
        JavaError: no Java that Spark can use.
    """
    find_java()
    # Workers run in the interpreter that runs us, not in whatever python3 PATH finds first.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    # What spark-submit was told is in the JVM that started us; a SparkConf made before we are connected to it is empty.
    SparkContext._ensure_initialized()
    conf = configure(SparkConf(), app_name)
    spark = SparkSession.builder.config(conf=conf).getOrCreate()
    spark.sparkContext.setLogLevel(conf.get("spark.log.level", "WARN") or "WARN")
    if threading.current_thread() is threading.main_thread():
        # Spark's own handler asks the JVM to cancel jobs in the middle of whatever is being asked of it, and breaks.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return spark


def configure(conf: SparkConf, app_name: str) -> SparkConf:
    """Fill in what nobody has set."""
    environment = {f"spark.executorEnv.{name}": value for name, value in WORKER_ENVIRONMENT.items()}
    ours = {"spark.master": "local[*]", "spark.app.name": app_name, **_DEFAULTS, **environment}
    for key, value in ours.items():
        conf.setIfMissing(key, value)
    return conf
