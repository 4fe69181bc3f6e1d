"""Fixtures of the web tests: a small service, and a real server on a free port."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import httpx
import pytest
import uvicorn

from cxrfeat.backbones.encoder import EncoderSpec
from cxrfeat.backbones.registry import BACKBONES
from cxrfeat.backbones.weights import RANDOM, find_weights
from cxrfeat.device import Precision
from cxrfeat.head.bundle import save_bundle
from cxrfeat.labels.findings import FINDINGS
from cxrfeat.web.app import create_app
from cxrfeat.web.request_queue import RequestLimits
from cxrfeat.web.service import Service, ServiceSettings, open_service
from tests import fakes

PATIENCE_S = 600
"""Timeout in seconds. No test measures time, so that slow machines pass."""

TRAINING = {
    "rows": {"train": 1000, "val": 200, "test": 300},
    "patients": {"train": 400, "val": 80, "test": 120},
    "train_positives": {finding: 10 * place for place, finding in enumerate(FINDINGS, start=1)},
    "test": {
        "mean_auroc": 0.75,
        "mean_over_findings": 13,
        "findings": {
            finding: {"auroc": None if finding == "Hernia" else 0.75, "positives": 30 * (finding != "Hernia")}
            for finding in FINDINGS
        },
    },
}
"""Training record in the format of head_training.training.run."""


@pytest.fixture(scope="package")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceSettings]:
    """Return settings of a service with a small random network and a matching head on disk."""
    BACKBONES["small"] = fakes.SMALL
    spec = EncoderSpec("small", find_weights(fakes.SMALL, RANDOM))
    folder = tmp_path_factory.mktemp("web") / "head"
    save_bundle(replace(fakes.bundle(2048, extractor=spec.fingerprint), training=TRAINING), folder)
    yield ServiceSettings(str(folder), RANDOM, "small", Precision.FP32)
    del BACKBONES["small"]


@pytest.fixture(scope="package")
def service(settings: ServiceSettings) -> Service:
    return open_service(settings)


@contextmanager
def serve(service: Service, limits: RequestLimits | None = None) -> Iterator[httpx.Client]:
    """Run a server in a thread and yield a connected client."""
    server = uvicorn.Server(uvicorn.Config(create_app(service, limits), port=0, access_log=False, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_for(lambda: server.started or not thread.is_alive())
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds, or fail after the timeout."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.01)


@pytest.fixture(scope="package")
def client(service: Service) -> Iterator[httpx.Client]:
    with serve(service) as client:
        yield client


@pytest.fixture
def png() -> bytes:
    return fakes.png(fakes.gray_image(80, 64))
