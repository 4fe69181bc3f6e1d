"""Spark's S3 connector for tests.

The official source is Maven: ``org.apache.hadoop:hadoop-aws`` in the Hadoop version of Spark. If only PyPI is
reachable, ``python -m tests.s3a FOLDER`` extracts version 3.3.6 and its AWS SDK from H2O's wheel (Apache 2.0, 250 MB
to download), which runs on Hadoop 3.5 with :data:`SETTINGS_OF_3_3`. For tests only, not for production.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pyspark

FOLDER = "CXRFEAT_S3A_JARS"
"""Environment variable: a folder with the connector's jars."""

WHEEL = "h2o==3.46.0.9"
JAR = "hadoop-aws-3.3.6.jar"

SETTINGS_OF_3_3 = {
    # Hadoop 3.5's defaults have units, 3.3 reads plain numbers.
    "fs.s3a.threads.keepalivetime": "60",
    "fs.s3a.connection.establish.timeout": "5000",
    "fs.s3a.connection.timeout": "200000",
    "fs.s3a.multipart.purge.age": "86400",
    # Hadoop 3.5's default names classes of a newer AWS SDK.
    "fs.s3a.aws.credentials.provider": "org.apache.hadoop.fs.s3a.SimpleAWSCredentialsProvider",
    # The vectored reads of 3.3 call methods that Hadoop 3.5 no longer has.
    "parquet.hadoop.vectored.io.enabled": "false",
}

_PACKAGES = (
    "org/apache/hadoop/fs/s3a/",
    "org/apache/hadoop/fs/s3native/",
    "com/amazonaws/",
    "com/fasterxml/jackson/dataformat/cbor/",
    "javax/xml/bind/",
    "com/sun/xml/bind/",
    "org/wildfly/",
    "mime.types",
)


def submit_options() -> list[str] | None:
    """Return the options of spark-submit for the connector, or None if there is no connector."""
    if list((Path(pyspark.__file__).parent / "jars").glob("hadoop-aws-*.jar")):
        return []
    jars = sorted(Path(os.environ[FOLDER]).glob("*.jar")) if FOLDER in os.environ else []
    if not jars:
        return None
    settings = SETTINGS_OF_3_3 if any(jar.name == JAR for jar in jars) else {}
    options = ["--jars", ",".join(map(str, jars))]
    return options + [f"--conf=spark.hadoop.{name}={value}" for name, value in settings.items()]


def make(folder: Path) -> None:
    """Write :data:`JAR` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, WHEEL]
        subprocess.run(download, check=True)
        with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
            (inside,) = (name for name in wheel.namelist() if name.endswith("/h2o.jar"))
            whole = wheel.extract(inside, scratch)
        with zipfile.ZipFile(whole) as source, zipfile.ZipFile(folder / JAR, "w", zipfile.ZIP_DEFLATED) as jar:
            for name in filter(lambda name: name.startswith(_PACKAGES) and not name.endswith("/"), source.namelist()):
                jar.writestr(name, source.read(name))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
