"""Consistency of the files in docker/ with each other and with the repository."""

from __future__ import annotations

import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

WORKERS = ("worker-0", "worker-1")
CORES = "6"


@pytest.fixture(scope="module")
def root(pytestconfig: pytest.Config) -> Path:
    return pytestconfig.rootpath


@pytest.fixture(scope="module")
def services(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the services of compose.yaml with all variables substituted, for 6 cores per GPU."""
    given = (root / "docker" / "example.env").read_text()
    environment = tmp_path_factory.mktemp("compose") / "test.env"
    environment.write_text(re.sub(r"(?m)^CXRFEAT_CORES=.*$", f"CXRFEAT_CORES={CORES}", given))
    program = Path(sys.executable).with_name("podman-compose")
    files = ("--env-file", str(environment), "--file", str(root / "docker" / "compose.yaml"))
    command = (str(program), "--dry-run", *files, "--profile", "tools", "config")
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = yaml.safe_load(result.stdout)["services"]
    return found


@pytest.fixture(scope="module")
def gpu_conf(root: Path) -> dict[str, str]:
    lines = (root / "docker" / "gpu.conf").read_text().splitlines()
    return dict(line.split() for line in lines if line and not line.startswith("#"))


def arguments_of(root: Path, instruction: str) -> list[list[str]]:
    """Return the arguments of each use of a Dockerfile instruction, with continued lines joined."""
    text = (root / "docker" / "Dockerfile").read_text().replace("\\\n", " ")
    return [line.split()[1:] for line in text.splitlines() if line.startswith(f"{instruction} ")]


def test_the_image_is_built_from_existing_files(root: Path) -> None:
    """Copied and mounted files exist, and .dockerignore includes them."""
    copied = [word for words in arguments_of(root, "COPY") for word in words[:-1]]
    mounted = re.findall(r"source=([^,\s]+)", (root / "docker" / "Dockerfile").read_text())
    let_through = [line[1:] for line in (root / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert mounted
    for source in [*copied, *mounted]:
        assert list(root.glob(source)), source
        assert any(fnmatch(source, f"{name}*") for name in let_through), source


def test_nothing_but_the_program_is_sent_to_the_builder(root: Path) -> None:
    """.dockerignore excludes everything by default, so data, weights and secrets cannot get into an image."""
    rules = [line for line in (root / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")}.isdisjoint({"shared", "data", "weights", ".git"})
    assert rules[-1] == "docker/*.env"


def test_one_task_takes_a_whole_executor_with_one_gpu(gpu_conf: dict[str, str]) -> None:
    """A task has the GPU and all cores of its executor; Python has memory beside the JVM."""
    assert gpu_conf["spark.executor.resource.gpu.amount"] == gpu_conf["spark.task.resource.gpu.amount"] == "1"
    assert gpu_conf["spark.executor.cores"] == gpu_conf["spark.task.cpus"]
    assert {"spark.executor.memory", "spark.executor.memoryOverhead"} <= set(gpu_conf)


def test_the_cores_of_a_gpu_are_set_once(services: dict[str, Any]) -> None:
    """CXRFEAT_CORES sets the cores of a worker, its executor and the one task."""
    for name in WORKERS:
        command = services[name]["command"]
        assert command[command.index("--cores") + 1] == CORES
    submitted = services["submit"]["entrypoint"]
    assert {f"--conf=spark.executor.cores={CORES}", f"--conf=spark.task.cpus={CORES}"} <= set(submitted)


def test_an_executor_fits_into_a_worker(services: dict[str, Any], gpu_conf: dict[str, str]) -> None:
    """A worker offers at least the memory of an executor; otherwise Spark would wait forever."""
    for name in WORKERS:
        command = services[name]["command"]
        offered = command[command.index("--memory") + 1]
        assert int(offered.removesuffix("g")) >= int(gpu_conf["spark.executor.memory"].removesuffix("g"))


def test_workers_have_a_gpu_each(services: dict[str, Any]) -> None:
    """No GPU is shared by two workers, and each worker registers one."""
    reserved = [services[name]["deploy"]["resources"]["reservations"]["devices"] for name in WORKERS]
    assert [device["device_ids"] for devices in reserved for device in devices] == [["0"], ["1"]]
    for name in WORKERS:
        options = services[name]["environment"]["SPARK_WORKER_OPTS"].split()
        assert "-Dspark.worker.resource.gpu.amount=1" in options


def test_paths_in_compose_exist_in_the_image(root: Path, services: dict[str, Any]) -> None:
    """The Dockerfile copies scripts and files to the paths used in compose.yaml."""
    folder = arguments_of(root, "WORKDIR")[0][0]
    copies = arguments_of(root, "COPY")
    there = {
        f"{folder}/{words[-1]}{path.name}" for words in copies for source in words[:-1] for path in root.glob(source)
    }
    text = yaml.safe_dump(services, width=1000)
    named = set(re.findall(rf"{folder}/[\w./-]+", text)) | {f"{folder}/docker/gpu.conf"}
    assert f"{folder}/docker/discover-gpus.sh" in named
    assert named <= there
    assert "--properties-file=docker/gpu.conf" in services["submit"]["entrypoint"]


def test_driver_and_workers_see_the_data_at_one_path(services: dict[str, Any]) -> None:
    """Workers read the images that the driver lists, and write the rows that it commits."""

    def data(name: str) -> list[dict[str, Any]]:
        binds = [volume for volume in services[name]["volumes"] if isinstance(volume, dict)]
        return [volume for volume in binds if volume["target"] == "/data" and not volume.get("read_only")]

    assert len(data("submit")) == 1
    assert data("worker-0") == data("worker-1") == data("submit")


def test_drivers_write_their_events_where_the_history_server_looks(services: dict[str, Any]) -> None:
    """Both use the same folder and volume."""
    folder = "file:///var/spark/events"
    assert f"--conf=spark.eventLog.dir={folder}" in services["submit"]["entrypoint"]
    assert f"-Dspark.history.fs.logDirectory={folder}" in services["history"]["environment"]["SPARK_HISTORY_OPTS"]
    for name in ("submit", "history"):
        assert "events:/var/spark/events" in services[name]["volumes"]


def test_nothing_listens_beyond_this_machine(services: dict[str, Any]) -> None:
    """Ports are published on the loopback interface, except the master's job port, which is not published."""
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert ports
    assert all(re.fullmatch(r"127\.0\.0\.1:(8080|18080):\d+", port) for port in ports)
