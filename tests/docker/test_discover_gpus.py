"""GPU discovery script: CUDA device numbers, or an error on stdout."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.docker import nvidia_smi

TWO = nvidia_smi.lines(2)
SECOND = TWO[1].split(", ")[1]


@pytest.fixture
def script(pytestconfig: pytest.Config) -> Path:
    return pytestconfig.rootpath / "docker" / "discover-gpus.sh"


def discover(script: Path, path: Path, visible: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the script like Spark, as a program without arguments."""
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    environment["PATH"] = f"{path}{os.pathsep}{environment['PATH']}"
    if visible is not None:
        environment["CUDA_VISIBLE_DEVICES"] = visible
    return subprocess.run([str(script)], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("answer", "visible", "addresses"),
    [
        (nvidia_smi.lines(1), None, ["0"]),
        (nvidia_smi.lines(12), None, [str(number) for number in range(12)]),
        (["0, GPU-8932f937-d72c-4106-c12f-20bd9faed9f6, [N/A]"], None, ["0"]),
        (TWO, "1", ["0"]),
        (TWO, "1,0", ["0", "1"]),
        (TWO, SECOND, ["0"]),
        (TWO, f"{SECOND[:6]},0", ["0", "1"]),
    ],
)
def test_addresses_are_cuda_device_numbers(
    script: Path, tmp_path: Path, answer: list[str], visible: str | None, addresses: list[str]
) -> None:
    """All GPUs of nvidia-smi; with CUDA_VISIBLE_DEVICES, its entries, numbered from 0."""
    nvidia_smi.install(tmp_path, answer)
    result = discover(script, tmp_path, visible)
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout) == {"name": "gpu", "addresses": addresses}


@pytest.mark.parametrize(
    ("answer", "exit_code", "visible", "message"),
    [
        (["No devices were found"], 6, None, "nvidia-smi failed: No devices were found"),
        ([], 0, None, "nvidia-smi lists no GPU"),
        (["GPU 0 is lost"], 0, None, "nvidia-smi listed 'GPU 0 is lost'; expected 'INDEX, GPU-UUID, MIG MODE'"),
        ([TWO[0], TWO[1].replace("Dis", "En")], 0, None, "GPU 1 is in MIG mode, which is not supported"),
        (TWO, 0, "", "CUDA_VISIBLE_DEVICES is empty: it hides every GPU"),
        (TWO, 0, "2", "CUDA_VISIBLE_DEVICES=2: GPU '2' does not exist; nvidia-smi lists: 0, GPU-0"),
        (TWO, 0, "0,-1", "GPU '-1' does not exist"),
        (TWO, 0, "GPU-7", "GPU 'GPU-7' does not exist"),
        (TWO, 0, "MIG-GPU-01d0c5e0/1/0", "GPU 'MIG-GPU-01d0c5e0/1/0' does not exist"),
        (TWO, 0, ".*", "GPU '.*' does not exist"),
    ],
)
def test_unusable_gpus_are_an_error(
    script: Path, tmp_path: Path, answer: list[str], exit_code: int, visible: str | None, message: str
) -> None:
    """The exit code is 1 and the reason is on stdout, which Spark shows in its log."""
    nvidia_smi.install(tmp_path, answer, exit_code)
    result = discover(script, tmp_path, visible)
    assert result.returncode == 1
    assert result.stdout.startswith("discover-gpus.sh: ")
    assert message in result.stdout
    assert result.stderr == result.stdout


def test_a_machine_without_a_driver_is_refused(script: Path, tmp_path: Path) -> None:
    """Without nvidia-smi, the message names the driver."""
    environment = {"PATH": str(tmp_path)}
    result = subprocess.run(["/bin/bash", str(script)], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "nvidia-smi is not on PATH; it is part of the NVIDIA driver" in result.stdout
