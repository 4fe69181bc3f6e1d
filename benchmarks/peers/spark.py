"""What the Spark peers share: a session as a notebook opens it, and films as Spark's own binaryFile reads them."""

from __future__ import annotations

import os
import sys

from pyspark.sql import DataFrame, SparkSession

from cxrfeat.images import png_jpeg
from cxrfeat.spark.java import find_java


def open_session(name: str) -> SparkSession:
    """Start Spark on all cores with its own defaults, and what ``spark_jobs/conf`` sets for everybody."""
    find_java()
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    return SparkSession.builder.master("local[*]").appName(name).getOrCreate()


def read_films(spark: SparkSession, images: str) -> DataFrame:
    """Return path and content of every film."""
    suffixes = ",".join(suffix.lstrip(".") for suffix in png_jpeg.SUFFIXES)
    reader = spark.read.format("binaryFile").option("recursiveFileLookup", "true")
    return reader.option("pathGlobFilter", f"*.{{{suffixes}}}").load(f"file://{images}").select("path", "content")
