"""The Spark session of both jobs: our defaults, which any ``spark-submit --conf`` overrides."""

from __future__ import annotations

import os
import signal
import sys
import threading

from py4j.protocol import Py4JJavaError
from pyspark import SparkConf, SparkContext
from pyspark.sql import SparkSession

from cxrfeat import exits
from cxrfeat.errors import ConfigError, SessionError
from cxrfeat.io import storage
from cxrfeat.spark.java import find_java

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
    # The summary asks for some thirty numbers at once, which is no reason for a warning.
    "spark.sql.debug.maxToStringFields": "1000",
    # What we shuffle is small: metadata, and one round's rows.
    "spark.sql.shuffle.partitions": "8",
    # Parquet that others read fast: zstd, and no dictionary attempt on float vectors.
    "spark.sql.parquet.compression.codec": "zstd",
}

_S3_PLACE = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")


def open_session(app_name: str, *, interrupted: str | None = None) -> SparkSession:
    """Start (or join) the session; ``spark-submit`` and ``spark-defaults.conf`` have the last word on every setting.

    Args:
        app_name: for Spark's pages.
        interrupted: what Ctrl-C leaves, in words, of a command; None where Ctrl-C means something else, as in a notebook.

    Raises:
        JavaError: no Java that Spark can use.
        SessionError: Spark can't be started; the message names the master.
    """
    find_java()
    # Workers run in the interpreter that runs us, not in whatever python3 PATH finds first.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    # What spark-submit was told is in the JVM that started us; a SparkConf made before we are connected to it is empty.
    SparkContext._ensure_initialized()
    conf = configure(SparkConf(), app_name)
    try:
        spark = SparkSession.builder.config(conf=conf).getOrCreate()
    except Py4JJavaError as error:
        cause = str(error.java_exception.getMessage()).splitlines()[0]
        raise SessionError(f"Spark can't be started with master {conf.get('spark.master')}: {cause}") from error
    spark.sparkContext.setLogLevel(conf.get("spark.log.level", "WARN") or "WARN")
    if threading.current_thread() is threading.main_thread():
        # Spark's own handler asks the JVM to cancel jobs in the middle of whatever is being asked of it, and breaks.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if interrupted is not None:  # said at once: the JVM that hands our output on has the signal too, and ends soon
            exits.answer_interrupts(interrupted)
    return spark


def configure(conf: SparkConf, app_name: str) -> SparkConf:
    """Fill in what nobody has set."""
    environment = {f"spark.executorEnv.{name}": value for name, value in WORKER_ENVIRONMENT.items()}
    ours = {"spark.master": "local[*]", "spark.app.name": app_name, **_DEFAULTS, **environment, **_s3_settings()}
    for key, value in ours.items():
        conf.setIfMissing(key, value)
    return conf


def _s3_settings() -> dict[str, str]:
    """Return where S3 is, from the environment of the AWS SDKs, for Spark's connector and for workers elsewhere.

    Never a credential: Spark takes the driver's for its connector by itself, workers have their own (docs/S3.md).
    """
    environment = {name: os.environ[name] for name in _S3_PLACE if os.environ.get(name)}
    settings = {f"spark.executorEnv.{name}": value for name, value in environment.items()}
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    if endpoint:
        settings["spark.hadoop.fs.s3a.endpoint"] = endpoint
        settings["spark.hadoop.fs.s3a.path.style.access"] = "true"  # as pyarrow asks any server that is not AWS
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    if region:
        settings["spark.hadoop.fs.s3a.endpoint.region"] = region
    return settings


def count_slots(spark: SparkSession) -> int:
    """Return how many tasks run at once."""
    cores = int(spark.sparkContext.getConf().get("spark.task.cpus", "1") or "1")
    return max(1, spark.sparkContext.defaultParallelism // cores)


def check_connectors(spark: SparkSession, *locations: str | None) -> None:
    """Check that Spark has a connector for each location that is given; pyarrow, which the workers use, has its own.

    Raises:
        ConfigError: there is none for a location's scheme; for S3 the message says how to get it.
    """
    assert spark._jvm is not None  # only a Spark Connect session has none  # noqa: S101
    hadoop = spark._jvm.org.apache.hadoop
    for location in filter(None, locations):
        scheme = storage.scheme_of(location)
        try:
            hadoop.fs.FileSystem.getFileSystemClass(scheme, spark._jsc.hadoopConfiguration())
        except Py4JJavaError as error:
            package = f"org.apache.hadoop:hadoop-aws:{hadoop.util.VersionInfo.getVersion()}"
            hint = f"; start the job with spark-submit --packages {package} (docs/S3.md)" if scheme == "s3a" else ""
            raise ConfigError(f"{location!r}: this Spark has no connector for {scheme}://{hint}") from error
