"""Start jobs as a user does, and kill them as a power cut does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHON = sys.executable


def start(job: str, *options: str, submit: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Start a job in a process group of its own, with the Spark of this environment; ``submit`` is for Spark itself."""
    spark_submit = str(Path(sys.executable).with_name("spark-submit"))
    spark = ["--master", "local[2]", "--conf", "spark.ui.enabled=false"]
    command = [spark_submit, *spark, *submit, f"spark_jobs/{job}.py"]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.Popen(
        [*command, *options],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(job: str, *options: str, submit: Sequence[str] = (), code: int = 0) -> str:
    """Run a job to its end, expect its exit code, and return what it printed."""
    with start(job, *options, submit=submit) as process:
        printed, _ = process.communicate()
    assert process.returncode == code, f"exit code {process.returncode}:\n{printed}"
    return printed


def kill_when(process: subprocess.Popen[str], due: Callable[[], bool]) -> None:
    """Kill the driver, its JVM and its workers with SIGKILL as soon as ``due`` returns True."""
    with process:
        while not due():
            assert process.poll() is None, f"the job ended before it could be killed:\n{process.communicate()[0]}"
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
