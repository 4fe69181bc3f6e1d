"""The session has the project's defaults, and spark-submit overrides them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pyspark import SparkConf
from pyspark.sql import SparkSession

from cxrfeat.errors import ConfigError, JavaError
from cxrfeat.spark import session
from cxrfeat.spark.session import WORKER_ENVIRONMENT, check_connectors, configure, count_slots, open_session


def test_defaults_fill_gaps_and_override_nothing() -> None:
    """Settings of spark-submit stay; all others get our defaults, including the workers' allocator."""
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
    with pytest.raises(JavaError, match="JAVA_HOME=nowhere has no bin/java"):
        open_session("extract")


def test_a_running_session_is_joined(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a notebook or a test that has a session, the jobs use that one."""
    monkeypatch.setattr(session, "_DEFAULTS", {})  # they would stay in it, and other tests share it
    assert open_session("another").sparkContext is spark.sparkContext


def submit(*words: str) -> subprocess.CompletedProcess[str]:
    """Run spark-submit of this environment."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [str(Path(sys.executable).with_name("spark-submit")), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_spark_submit_has_the_last_word(tmp_path: Path) -> None:
    """Master and settings of the command line apply in a real submission, where only the JVM has them at first."""
    script = tmp_path / "say.py"
    script.write_text(
        "from cxrfeat.spark.session import open_session\n"
        "spark = open_session('say')\n"
        "print('say', spark.sparkContext.master, spark.conf.get('spark.sql.shuffle.partitions'),"
        " spark.conf.get('spark.sql.parquet.compression.codec'))\n"
    )
    options = ("--master", "local[3]", "--conf", "spark.sql.shuffle.partitions=5", "--conf", "spark.ui.enabled=false")
    result = submit(*options, str(script))
    assert "say local[3] 5 zstd" in result.stdout, result.stderr


@pytest.mark.slow
def test_an_unavailable_cluster_is_one_line(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    """The last line names the master and the cause, and the exit code is 1."""
    job = str(pytestconfig.rootpath / "spark_jobs" / "extract.py")
    folders = ("--images", str(tmp_path / "in"), "--output", str(tmp_path / "out"))
    result = submit("--master", "local[x]", job, *folders)
    printed = result.stdout + result.stderr
    assert result.returncode == 1, printed
    assert "error: cannot start Spark with master local[x]: Could not parse Master URL" in printed
    assert "Traceback" not in printed


AWS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")


@pytest.mark.parametrize(
    ("environment", "endpoint", "region"),
    [
        ({}, None, None),
        ({"AWS_ENDPOINT_URL": "http://minio:9000"}, "http://minio:9000", None),
        ({"AWS_ENDPOINT_URL": "http://a", "AWS_ENDPOINT_URL_S3": "http://b"}, "http://b", None),
        ({"AWS_DEFAULT_REGION": "eu-west-1"}, None, "eu-west-1"),
        ({"AWS_DEFAULT_REGION": "eu-west-1", "AWS_REGION": "eu-west-2"}, None, "eu-west-2"),
        ({"AWS_ENDPOINT_URL": "", "AWS_REGION": ""}, None, None),
    ],
)
def test_where_s3_is_comes_from_the_environment(
    environment: dict[str, str], endpoint: str | None, region: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Endpoint and region reach Spark's connector and remote workers as pyarrow reads them; credentials do not."""
    for name in AWS:
        monkeypatch.delenv(name, raising=False)
    for name, value in {**environment, "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "secret"}.items():
        monkeypatch.setenv(name, value)
    settings = dict(configure(SparkConf(loadDefaults=False), "extract").getAll())
    found = {key: value for key, value in settings.items() if "s3a" in key or "AWS" in key}
    expected = {f"spark.executorEnv.{name}": value for name, value in environment.items() if value}
    if endpoint:
        expected |= {"spark.hadoop.fs.s3a.endpoint": endpoint, "spark.hadoop.fs.s3a.path.style.access": "true"}
    if region:
        expected["spark.hadoop.fs.s3a.endpoint.region"] = region
    assert found == expected
    given = SparkConf(loadDefaults=False).set("spark.hadoop.fs.s3a.endpoint", "mine")
    assert configure(given, "extract").get("spark.hadoop.fs.s3a.endpoint") == "mine"


def test_a_missing_connector_is_named(spark: SparkSession) -> None:
    """With what to do about it where that is S3; locations that Spark reaches, or that are not given, pass."""
    check_connectors(spark, "/data", "file:/data", "hdfs://name/data", None)
    with pytest.raises(ConfigError, match=r"^'gopher://host/x': this Spark has no connector for gopher://$"):
        check_connectors(spark, "/data", "gopher://host/x")
    hadoop = spark.sparkContext._jsc.hadoopConfiguration()
    known = hadoop.get("fs.s3a.impl")
    hadoop.set("fs.s3a.impl", "org.example.NotThere")
    try:
        for location in ("s3://bucket/x", "s3a://bucket/x"):
            with pytest.raises(ConfigError, match=r"s3a://; .* --packages org\.apache\.hadoop:hadoop-aws:\d+\.\d+"):
                check_connectors(spark, location)
    finally:
        hadoop.set("fs.s3a.impl", known)


def test_slots_are_cores_by_the_cores_of_a_task(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's task takes several cores to decode with; there is always one slot."""
    cores, conf = spark.sparkContext.defaultParallelism, spark.sparkContext.getConf()
    monkeypatch.setattr(spark.sparkContext, "getConf", lambda: conf)
    for of_task, slots in (("1", cores), (str(cores), 1), (str(2 * cores), 1)):
        conf.set("spark.task.cpus", of_task)
        assert count_slots(spark) == slots


@pytest.mark.parametrize("own", ["spark-defaults.conf", "log4j2.properties"])
def test_log_settings_of_the_users_own_conf_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own: str) -> None:
    """A JVM started from Python gets our log settings, unless Spark's conf folder has settings of its own."""
    monkeypatch.setenv("SPARK_CONF_DIR", str(tmp_path))
    (*_, java_options, shell) = session._submit_arguments()
    file = Path(java_options.removeprefix("-Dlog4j2.configurationFile="))
    assert file.is_file()
    assert shell == "pyspark-shell"
    (tmp_path / own).touch()
    assert session._submit_arguments() == ["--conf", "spark.ui.showConsoleProgress=false", "pyspark-shell"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"LC_ALL": "C"}, "C.UTF-8"),
        ({"LANG": "de_DE"}, "C.UTF-8"),
        ({}, "C.UTF-8"),
        ({"LC_CTYPE": "de_DE.UTF-8"}, None),
    ],
)
def test_java_gets_a_locale_that_holds_every_name(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: str | None
) -> None:
    """A locale in another encoding, or none, is replaced before the JVM starts; one in UTF-8 stays."""
    for name in ("LC_ALL", "LC_CTYPE", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    session._use_utf8_locale()
    assert os.environ.get("LC_ALL") == expected
    monkeypatch.setenv("LC_ALL", "")  # so that the end of the test restores it
