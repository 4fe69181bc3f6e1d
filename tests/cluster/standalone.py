"""A Spark standalone cluster on this machine: a master and workers, started with Spark's launch classes.

    python -m tests.cluster.standalone [--workers 2] [--cores 1] [--memory 2g] [--discovery SCRIPT]

starts a cluster, prints how to submit to it, and stops it on Ctrl-C. All its files are in one temporary folder.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import pyspark

from cxrfeat.spark.java import find_java

_HOST = "127.0.0.1"
_WORKER_HOST = "127.0.0.{}"
"""Each worker has its own address, because Spark runs a speculative copy on another host. Linux accepts 127.0.0.0/8."""

_DEADLINE_S = 60.0
_POLL_S = 0.1

_LOG4J = """\
rootLogger.level = info
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %d{HH:mm:ss.SSS} %p %c{1}: %m%n%ex
"""


class Cluster:
    """A master and its workers; a context manager that starts and stops them.

    Attributes:
        url: value for ``--master``.
        workers: all daemons in order, including dead ones.
    """

    def __init__(
        self,
        folder: Path,
        *,
        workers: int = 2,
        cores: int = 1,
        memory: str = "2g",
        discovery: Sequence[Path] = (),
        wrapper: Sequence[str] = (),
    ) -> None:
        """Describe a cluster; nothing runs yet.

        Args:
            folder: folder for logs, configuration and executors' scratch.
            workers: number of workers.
            cores: cores per worker.
            memory: memory per worker, in Spark's notation.
            discovery: one GPU discovery script per worker; empty for a cluster without GPUs.
            wrapper: command that runs each daemon, such as ``setpriv``.
        """
        self.url = f"spark://{_HOST}:{_free_port()}"
        self.workers: list[subprocess.Popen[bytes]] = []
        self._ui = _free_port()
        self._folder = folder
        self._count = workers
        self._options = ["--cores", str(cores), "--memory", memory, "--work-dir", str(folder / "work")]
        self._discovery = discovery
        self._wrapper = wrapper
        self._master: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start everything, and wait until every worker is registered."""
        find_java()
        conf = self._folder / "conf"
        conf.mkdir(parents=True)
        (conf / "log4j2.properties").write_text(_LOG4J)
        port = self.url.rsplit(":", 1)[1]
        with contextlib.ExitStack() as undo:
            undo.callback(self.stop)
            self._master = self._launch("master", "--port", port, "--webui-port", str(self._ui))
            _wait_for(lambda: self.state() is not None, "the master to answer", self._master)
            for index in range(self._count):
                self.workers.append(self._launch_worker(index))
            self.wait_for_workers(self._count)
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything."""
        self.stop()

    def kill_worker(self, index: int) -> None:
        """Kill a worker's daemon with SIGKILL; its executor ends when it misses it."""
        self.workers[index].kill()
        self.workers[index].wait()

    def restart_worker(self, index: int) -> None:
        """Start a worker in the place of one that has died, and wait until it is registered."""
        self.workers[index] = self._launch_worker(index)
        self.wait_for_workers(self._count)

    def wait_for_workers(self, count: int) -> None:
        """Wait until this many workers are alive, as the master sees it."""

        def alive() -> bool:
            state = self.state() or {"workers": []}
            return len([worker for worker in state["workers"] if worker["state"] == "ALIVE"]) == count

        _wait_for(alive, f"{count} workers", *self.workers[-1:])

    def state(self) -> dict[str, Any] | None:
        """Return the master's report on its workers and applications, or None while it does not respond."""
        try:
            with urllib.request.urlopen(f"http://{_HOST}:{self._ui}/json/", timeout=5) as answer:
                state: dict[str, Any] = json.load(answer)
        except (OSError, json.JSONDecodeError):  # the page exists before its JSON
            return None
        return state

    def executors(self, index: int) -> list[psutil.Process]:
        """Return the executors that a worker runs now."""
        found = []
        for child in psutil.Process(self.workers[index].pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):  # a worker's helper that has just ended
                if any("ExecutorBackend" in word for word in child.cmdline()):
                    found.append(child)
        return found

    def applications(self) -> set[str]:
        """Return the applications that ran an executor here; each left a folder."""
        return {path.name for path in (self._folder / "work").glob("app-*")}

    def stop(self) -> None:
        """Stop workers, with their executors, and the master."""
        for daemon in [*self.workers, self._master]:
            if daemon is not None:
                _end(daemon)

    def _launch_worker(self, index: int) -> subprocess.Popen[bytes]:
        resources = ""
        if self._discovery:
            script = self._discovery[index].resolve()
            found = json.loads(subprocess.run([script], check=True, capture_output=True).stdout)
            resources = f"-Dspark.worker.resource.gpu.amount={len(found['addresses'])} "
            resources += f"-Dspark.worker.resource.gpu.discoveryScript={shlex.quote(str(script))}"
        host = _WORKER_HOST.format(index + 1)
        return self._launch("worker", *self._options, self.url, host=host, options=resources)

    def _launch(self, kind: str, *words: str, host: str = _HOST, options: str = "") -> subprocess.Popen[bytes]:
        home = Path(pyspark.__file__).parent
        command = [str(home / "bin" / "spark-class"), f"org.apache.spark.deploy.{kind}.{kind.title()}", "--host", host]
        environment = {
            **os.environ,
            "SPARK_CONF_DIR": str(self._folder / "conf"),
            "SPARK_DAEMON_MEMORY": "256m",
            "SPARK_DAEMON_JAVA_OPTS": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1",
            "SPARK_WORKER_OPTS": options,
        }
        with (self._folder / f"{kind}.log").open("ab") as log:
            return subprocess.Popen(
                [*self._wrapper, *command, *words], env=environment, stdout=log, stderr=log, start_new_session=True
            )


def write_discovery(path: Path, addresses: Sequence[str]) -> Path:
    """Write a discovery script that reports made-up GPU addresses."""
    answer = json.dumps({"name": "gpu", "addresses": list(addresses)})
    path.write_text(f"#!/bin/sh\necho {shlex.quote(answer)}\n")
    path.chmod(0o755)
    return path


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def _wait_for(condition: Callable[[], bool], what: str, *daemons: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _DEADLINE_S
    while not condition():
        for daemon in daemons:
            if daemon.poll() is not None:
                raise RuntimeError(f"waiting for {what}: {daemon.args!r} ended with {daemon.returncode}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {_DEADLINE_S:.0f} s for {what}")
        time.sleep(_POLL_S)


def _end(daemon: subprocess.Popen[bytes]) -> None:
    """End a daemon and its executors, which are in its process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(daemon.pid, signal.SIGTERM)
    try:
        daemon.wait(timeout=10)
    except subprocess.TimeoutExpired:
        os.killpg(daemon.pid, signal.SIGKILL)
        daemon.wait()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a cluster until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="number of workers (default 2)")
    parser.add_argument("--cores", type=int, default=1, help="cores per worker (default 1)")
    parser.add_argument("--memory", default="2g", help="memory per worker (default 2g)")
    parser.add_argument(
        "--discovery", type=Path, metavar="SCRIPT", help="GPU discovery script, such as docker/discover-gpus.sh"
    )
    options = parser.parse_args(argv)
    scripts = [options.discovery] * options.workers if options.discovery else []
    with tempfile.TemporaryDirectory(prefix="cluster-") as folder:
        cluster = Cluster(
            Path(folder),
            workers=options.workers,
            cores=options.cores,
            memory=options.memory,
            discovery=scripts,
        )
        with cluster:
            print(f"{options.workers} workers at {cluster.url}, logs in {folder}. Submit to it:\n")
            print(f"    spark-submit --master {cluster.url} spark_jobs/extract.py --images DIR --output DIR\n")
            print("Ctrl-C stops it.", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
