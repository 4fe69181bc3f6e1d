"""python -m cxrfeat.web: local address by default, one or several processes, one-line errors."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from cxrfeat.backbones.encoder import EncoderSpec
from cxrfeat.backbones.registry import get_backbone
from cxrfeat.backbones.weights import RANDOM, find_weights
from cxrfeat.device import Precision
from cxrfeat.head.bundle import save_bundle
from cxrfeat.web import __main__ as command
from cxrfeat.web.examples import draw_example
from cxrfeat.web.request_queue import RequestLimits
from tests import fakes
from tests.cxrfeat.web.conftest import PATIENCE_S, wait_for


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a head for the seeded random resnet50."""
    extractor = EncoderSpec("resnet50", find_weights(get_backbone("resnet50"), RANDOM)).fingerprint
    folder = tmp_path_factory.mktemp("command") / "head"
    save_bundle(fakes.bundle(2048, extractor=extractor), folder)
    return folder


def test_every_option_arrives(tmp_path: Path) -> None:
    """The defaults are safe: this machine only, one process, all its cores."""
    settings, limits, options = command.parse(["--head", "h"])
    assert (options.host, options.port, options.workers, limits) == ("127.0.0.1", 8000, 1, RequestLimits())
    assert (settings.head, settings.backbone, settings.precision, settings.threads) == (
        "h", None, "auto", os.cpu_count()
    )  # fmt: skip
    given = "--head h --weights w --backbone resnet50-v1 --precision fp32 --operating-point f1 --threads 3"
    given += " --engine openvino"
    settings, limits, options = command.parse(
        [*given.split(), "--evaluation", str(tmp_path), "--in-flight", "2", "--max-upload-mb", "0.5", "--workers", "2"]
    )
    assert (settings.weights, settings.backbone, settings.precision) == ("w", "resnet50-v1", Precision.FP32)
    assert (settings.operating_point, settings.threads, settings.evaluation) == ("f1", 3, tmp_path)
    assert settings.engine == "openvino"
    assert limits == replace(RequestLimits(), in_flight=2, upload_bytes=2**19)
    assert options.workers == 2
    assert command.parse(["--head", "h", "--port", "0"])[2].port == 0


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--head", "none"], "none is not a bundle: bundle.json is missing"),
        (["--operating-point", "f3"], "no operating point 'f3'"),
        (["--backbone", "resnet50-v1"], "the head was trained on"),
        (["--weights", __file__], "test_main.py as plain tensors"),
        (["--evaluation", "none.json"], "cannot read the evaluation none.json"),
        (["--port", "99999"], "--port 99999; expected 0 (any free port) to 65535"),
        (["--in-flight", "0"], "--in-flight 0; expected more than 0"),
        (["--max-upload-mb", "-1"], "--max-upload-mb -1.0; expected more than 0"),
    ],
)
def test_what_cannot_be_served_is_one_line(
    options: list[str], message: str, workers: str, head: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, before a port is opened, whatever the number of workers."""
    given = ["--head", str(head), "--weights", RANDOM, "--workers", workers, *options]
    assert command.main(given) == 2
    *loading, error = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in loading] in ([], ["loading"])
    assert error.startswith("error: ")
    assert message in error


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_unavailable_address_is_one_line(workers: str, head: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A port in use, an address of another host: exit code 1, before anything is loaded."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for host, cause in (("127.0.0.1", "in use"), ("192.0.2.1", "ssign requested address")):
            given = ["--head", str(head), "--weights", RANDOM, "--workers", workers, "--host", host, "--port", port]
            assert command.main(given) == 1
            error = capsys.readouterr().err
            assert error.startswith(f"error: cannot listen on --host {host} --port {port}: ")
            assert cause in error
            assert error.count("\n") == 1


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(head: Path, log: Path, *options: str) -> Iterator[httpx.Client]:
    """Run the command and yield a client; Ctrl-C must stop it cleanly."""
    port = free_port()
    command_line = [sys.executable, "-m", "cxrfeat.web", "--head", str(head), "--weights", RANDOM, "--port", str(port)]
    command_line += ["--threads", "1", "--precision", "fp32", *options]
    with log.open("wb") as output, subprocess.Popen(command_line, stdout=output, stderr=subprocess.STDOUT) as process:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as client:
                wait_for(lambda: process.poll() is not None or is_up(client))
                yield client
        finally:
            process.send_signal(signal.SIGINT)
            code = process.wait(PATIENCE_S)
    assert code == 0, log.read_text()


def is_up(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == 200
    except httpx.ConnectError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_it_serves_until_stopped(workers: int, head: Path, tmp_path: Path) -> None:
    """All workers return the same prediction, the log contains no patient data, and Ctrl-C gives exit code 0."""
    log = tmp_path / "log"
    patient: dict[str, str | int] = {"age": 41, "sex": "M"}
    with running(head, log, "--workers", str(workers)) as client:
        answers = []
        for _ in range(4):
            with httpx.Client(base_url=client.base_url, timeout=PATIENCE_S) as visitor:  # a new connection each time
                headers = {"Content-Type": "image/png"}
                response = visitor.post("/api/predict", content=draw_example("mass"), params=patient, headers=headers)
                answers.append(response.json())
        assert all(answer == answers[0] for answer in answers)
        assert answers[0]["assumptions"] == []
    text = log.read_text()
    assert "Uvicorn running on http://127.0.0.1:" in text
    assert "predict" not in text
    assert "age=" not in text
