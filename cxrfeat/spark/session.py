"""Spark session of both jobs, with defaults that any ``spark-submit --conf`` overrides."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from pathlib import Path

import pyspark
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
"""Settings that stop glibc from returning freed activations to the kernel after every batch and taking them back as
page faults. See benchmarks/LOG.md."""

_DEFAULTS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.ui.showConsoleProgress": "false",  # JobProgress shows a bar instead
    # A stage has few, long tasks: speculative copies and executors that come and go only waste GPUs.
    "spark.speculation": "false",
    "spark.dynamicAllocation.enabled": "false",
    # The summary has about thirty columns; Spark warns above 25.
    "spark.sql.debug.maxToStringFields": "1000",
    # Shuffles are small: metadata and the rows of one round.
    "spark.sql.shuffle.partitions": "8",
    # Small files that are fast to read.
    "spark.sql.parquet.compression.codec": "zstd",
}

_S3_VARIABLES = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")


def open_session(app_name: str, *, interrupted: str | None = None) -> SparkSession:
    """Start or join the session; ``spark-submit`` and ``spark-defaults.conf`` override every setting.

    Args:
        app_name: name shown in Spark's web UI.
        interrupted: message to print on Ctrl-C; None prints nothing, for example in a notebook.

    Raises:
        JavaError: Java is missing or too old.
        SessionError: Spark does not start; the message names the master.
    """
    find_java()
    # Workers run in the driver's interpreter, not in the first python3 on PATH.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    if SparkContext._gateway is None and "PYSPARK_GATEWAY_PORT" not in os.environ:  # not started by spark-submit
        os.environ.setdefault("PYSPARK_SUBMIT_ARGS", shlex.join(_submit_arguments()))
        _use_utf8_locale()
    # The options of spark-submit are in the JVM that started this process; a SparkConf is empty until it is connected.
    SparkContext._ensure_initialized()
    conf = configure(SparkConf(), app_name)
    try:
        spark = SparkSession.builder.config(conf=conf).getOrCreate()
    except Py4JJavaError as error:
        cause = str(error.java_exception.getMessage()).splitlines()[0]
        raise SessionError(f"cannot start Spark with master {conf.get('spark.master')}: {cause}") from error
    spark.sparkContext.setLogLevel(conf.get("spark.log.level", "WARN") or "WARN")
    if threading.current_thread() is threading.main_thread():
        # Spark's handler cancels jobs through the JVM connection, which fails if a call is already in progress.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if interrupted is not None:  # printed in the handler: the JVM that passes our output on gets the signal too
            exits.report_interrupts(interrupted)
    return spark


def configure(conf: SparkConf, app_name: str) -> SparkConf:
    """Set the project's defaults for all keys that are not set yet, and return ``conf``."""
    environment = {f"spark.executorEnv.{name}": value for name, value in WORKER_ENVIRONMENT.items()}
    defaults = {"spark.master": "local[*]", "spark.app.name": app_name, **_DEFAULTS, **environment, **_s3_settings()}
    for key, value in defaults.items():
        conf.setIfMissing(key, value)
    return conf


def _submit_arguments() -> list[str]:
    """Return the arguments of the spark-submit that pyspark calls to start a JVM from Python.

    Pyspark would start a shell, which shows a bar for each stage and logs more than the users need. Settings in Spark's
    own conf folder stay in force.
    """
    arguments = ["--conf", "spark.ui.showConsoleProgress=false"]
    conf = Path(os.environ.get("SPARK_CONF_DIR") or Path(pyspark.__file__).with_name("conf"))
    if not any((conf / name).exists() for name in ("spark-defaults.conf", "log4j2.properties")):
        file = Path(__file__).with_name("log4j2.properties")
        arguments += ["--driver-java-options", f"-Dlog4j2.configurationFile={file}"]
    return [*arguments, "pyspark-shell"]


def _use_utf8_locale() -> None:
    """Give the JVM a UTF-8 locale: in any other one it cannot write below a folder whose name has other letters."""
    names = (os.environ.get(name) for name in ("LC_ALL", "LC_CTYPE", "LANG"))
    if "utf" not in next(filter(None, names), "").lower():
        os.environ["LC_ALL"] = "C.UTF-8"


def _s3_settings() -> dict[str, str]:
    """Return S3 endpoint and region from the AWS SDKs' environment variables, for Spark's connector and for workers.

    Credentials are not copied: Spark's connector uses those of the driver, workers have their own (docs/S3.md).
    """
    environment = {name: os.environ[name] for name in _S3_VARIABLES if os.environ.get(name)}
    settings = {f"spark.executorEnv.{name}": value for name, value in environment.items()}
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    if endpoint:
        settings["spark.hadoop.fs.s3a.endpoint"] = endpoint
        settings["spark.hadoop.fs.s3a.path.style.access"] = "true"  # as pyarrow does for all servers other than AWS
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    if region:
        settings["spark.hadoop.fs.s3a.endpoint.region"] = region
    return settings


def count_slots(spark: SparkSession) -> int:
    """Return the number of tasks that run at the same time."""
    cores = int(spark.sparkContext.getConf().get("spark.task.cpus", "1") or "1")
    return max(1, spark.sparkContext.defaultParallelism // cores)


def check_connectors(spark: SparkSession, *locations: str | None) -> None:
    """Check that Spark has a connector for each location that is not None; the workers' pyarrow has its own.

    Raises:
        ConfigError: Spark has no connector for a location's scheme; for S3 the message contains the fix.
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
