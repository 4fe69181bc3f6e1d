"""Entrypoint of the image: the program started for each first argument."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pyspark
import pytest

SPARK = Path(pyspark.__file__).parent
POD_ENVIRONMENT = {
    "SPARK_DRIVER_URL": "spark://CoarseGrainedScheduler@10.0.0.1:7078",
    "SPARK_EXECUTOR_ID": "3",
    "SPARK_EXECUTOR_CORES": "8",
    "SPARK_EXECUTOR_MEMORY": "64m",
    "SPARK_APPLICATION_ID": "spark-application-7",
    "SPARK_EXECUTOR_POD_IP": "10.0.0.2",
    "SPARK_EXECUTOR_POD_NAME": "extract-exec-3",
    "SPARK_RESOURCE_PROFILE_ID": "0",
    "SPARK_JAVA_OPT_0": "-Dspark.driver.port=7078",
    "SPARK_JAVA_OPT_1": "-Da=with a space",
    "SPARK_CONF_DIR": "/opt/spark/conf",
    "SPARK_HOME": str(SPARK),
}
"""Environment that Spark 4 sets in an executor pod (BasicExecutorFeatureStep)."""


def run(root: Path, *arguments: str, path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Start the entrypoint in a clean environment, with a folder first on the path."""
    environment = {"PATH": f"{path}{os.pathsep}{os.environ['PATH']}", **variables}
    command = ["bash", str(root / "docker" / "entrypoint.sh"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def root(pytestconfig: pytest.Config) -> Path:
    return pytestconfig.rootpath


@pytest.fixture
def fakes(tmp_path: Path) -> Path:
    """Return a folder of programs that print their arguments, one per line."""
    for name in ("spark-submit", "java"):
        (tmp_path / name).write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
        (tmp_path / name).chmod(0o755)
    hostname = tmp_path / "hostname"
    hostname.write_text('#!/bin/sh\ntest "$*" = --ip-address && echo 172.18.0.5\n')
    hostname.chmod(0o755)
    return tmp_path


def test_submit_names_the_driver_by_its_address(root: Path, fakes: Path) -> None:
    """Executors reach the driver by the address of the container; arguments are unchanged."""
    result = run(root, "submit", "job.py", "--images", "/data/two words", path=fakes)
    expected = ["--conf", "spark.driver.host=172.18.0.5", "job.py", "--images", "/data/two words"]
    assert result.stdout.splitlines() == expected


def test_the_driver_of_a_pod_is_bound_to_its_address(root: Path, fakes: Path) -> None:
    """The driver listens on the address of the pod and receives the arguments of Spark."""
    arguments = ("driver", "--properties-file", "/opt/spark/conf/spark.properties", "local:///opt/cxrfeat/job.py")
    result = run(root, *arguments, path=fakes, SPARK_DRIVER_BIND_ADDRESS="10.0.0.1")
    bound = ["--conf", "spark.driver.bindAddress=10.0.0.1", "--conf", "spark.executorEnv.SPARK_DRIVER_POD_IP=10.0.0.1"]
    assert result.stdout.splitlines() == ["--deploy-mode", "client", *bound, *arguments[1:]]


def test_the_executor_of_a_pod_is_configured_by_its_environment(root: Path, fakes: Path) -> None:
    """Java options reach the JVM unsplit; the rest goes to the backend."""
    result = run(root, "executor", path=fakes, **POD_ENVIRONMENT)
    arguments = result.stdout.splitlines()
    assert arguments[:4] == ["-Dspark.driver.port=7078", "-Da=with a space", "-Xms64m", "-Xmx64m"]
    assert arguments[4:6] == ["-cp", f"/opt/spark/conf:{SPARK}/jars/*:{Path.cwd()}"]
    backend = arguments[arguments.index("org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend") + 1 :]
    options = dict(zip(backend[::2], backend[1::2], strict=True))
    assert options == {
        "--driver-url": POD_ENVIRONMENT["SPARK_DRIVER_URL"],
        "--executor-id": "3",
        "--cores": "8",
        "--app-id": "spark-application-7",
        "--hostname": "10.0.0.2",
        "--resourceProfileId": "0",
        "--podName": "extract-exec-3",
    }


@pytest.mark.parametrize("missing", ["SPARK_DRIVER_URL", "SPARK_EXECUTOR_MEMORY"])
def test_a_pod_without_its_environment_is_refused(root: Path, fakes: Path, missing: str) -> None:
    """The message names the variable, and nothing is started."""
    given = {name: value for name, value in POD_ENVIRONMENT.items() if name != missing}
    result = run(root, "executor", path=fakes, **given)
    assert result.returncode != 0
    assert f"{missing}: unbound variable" in result.stderr
    assert result.stdout == ""


def test_any_other_argument_is_a_command(root: Path, tmp_path: Path) -> None:
    """Master, worker and history server are started like this; the exit code is the command's."""
    result = run(root, "sh", "-c", 'echo "$1"; exit 7', "sh", "two words", path=tmp_path)
    assert (result.stdout, result.returncode) == ("two words\n", 7)


@pytest.mark.slow
def test_spark_accepts_every_option_of_the_executor(root: Path, tmp_path: Path) -> None:
    """Spark's backend accepts the options: it fails only when it connects to the missing driver."""
    nowhere = {"SPARK_DRIVER_URL": "spark://CoarseGrainedScheduler@127.0.0.1:1", "SPARK_EXECUTOR_POD_IP": "127.0.0.1"}
    result = run(root, "executor", path=tmp_path, **{**POD_ENVIRONMENT, **nowhere})
    assert "Unrecognized options" not in result.stderr
    assert "Failed to connect to /127.0.0.1:1" in result.stdout + result.stderr
