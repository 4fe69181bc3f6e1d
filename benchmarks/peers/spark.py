"""Shared parts of the Spark peers: a session with Spark's defaults, and images read by its own binaryFile source."""

from __future__ import annotations

import os
import sys

from pyspark.sql import DataFrame, SparkSession

from cxrfeat.images.candidates import SUFFIXES
from cxrfeat.spark.java import find_java


def open_session(name: str) -> SparkSession:
    """Start Spark on all cores with its defaults and the settings in ``spark_jobs/conf``."""
    find_java()
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    return SparkSession.builder.master("local[*]").appName(name).getOrCreate()


def read_images(spark: SparkSession, images: str) -> DataFrame:
    """Return path and content of every image."""
    suffixes = ",".join(suffix.lstrip(".") for suffix in SUFFIXES)
    reader = spark.read.format("binaryFile").option("recursiveFileLookup", "true")
    return reader.option("pathGlobFilter", f"*.{{{suffixes}}}").load(f"file://{images}").select("path", "content")
