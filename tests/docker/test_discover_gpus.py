"""What the GPU discovery script promises: CUDA's numbers of the GPUs, or on stdout why there are none."""

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
    """Run the script as Spark does: as a program, without arguments."""
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
def test_addresses_are_the_numbers_that_cuda_gives(
    script: Path, tmp_path: Path, answer: list[str], visible: str | None, addresses: list[str]
) -> None:
    """All GPUs by nvidia-smi's count; with CUDA_VISIBLE_DEVICES its entries, counted from 0."""
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
        (TWO, 0, "2", "CUDA_VISIBLE_DEVICES=2: there is no GPU '2' here; nvidia-smi lists: 0, GPU-0"),
        (TWO, 0, "0,-1", "there is no GPU '-1' here"),
        (TWO, 0, "GPU-7", "there is no GPU 'GPU-7' here"),
        (TWO, 0, "MIG-GPU-01d0c5e0/1/0", "there is no GPU 'MIG-GPU-01d0c5e0/1/0' here"),
        (TWO, 0, ".*", "there is no GPU '.*' here"),
    ],
)
def test_what_can_not_be_used_is_refused(
    script: Path, tmp_path: Path, answer: list[str], exit_code: int, visible: str | None, message: str
) -> None:
    """The exit code is 1 and stdout, which is what Spark's log shows of a script that fails, says why."""
    nvidia_smi.install(tmp_path, answer, exit_code)
    result = discover(script, tmp_path, visible)
    assert result.returncode == 1
    assert result.stdout.startswith("discover-gpus.sh: ")
    assert message in result.stdout
    assert result.stderr == result.stdout


def test_a_machine_without_a_driver_is_refused(script: Path, tmp_path: Path) -> None:
    """Without nvidia-smi the message says where it comes from."""
    environment = {"PATH": str(tmp_path)}
    result = subprocess.run(["/bin/bash", str(script)], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "no nvidia-smi on PATH; it comes with the driver" in result.stdout
