"""The page's service against the bare model: latency side by side, then eight visitors at once for a minute.

    python -m benchmarks.web [--weights FILE --backbone resnet50-v1] [--requests N] [--clients N] [--seconds S]

bare     decode, preprocess, embed and predict in this process, for the same film in the same precision and threads
service  POST /api/predict to `python -m cxrfeat.web`, heat maps and HTTP included; the two take turns
"""

from __future__ import annotations

import argparse
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import psutil
import torch

from benchmarks import machine
from benchmarks.features import make_head
from cxrfeat.backbones.encoder import EncoderSpec, FrozenEncoder
from cxrfeat.backbones.registry import BACKBONES
from cxrfeat.backbones.weights import RANDOM, find_weights
from cxrfeat.head.bundle import load_bundle
from cxrfeat.head.inputs import AGE, SEX
from cxrfeat.head.predictor import Predictor
from cxrfeat.head.thresholds import DEFAULT_RULE
from cxrfeat.images import png_jpeg, preprocess
from cxrfeat.phantom.patients import make_patient, make_studies
from cxrfeat.phantom.radiograph import draw
from tests.fakes import png

_HEADERS = {"Content-Type": "image/png"}
_START_S = 120
_WARM_UP = 5
_POLL_S = 1.0
_MIB = 2**20


@contextmanager
def service(head: Path, options: argparse.Namespace) -> Iterator[tuple[str, psutil.Process]]:
    """Run the command, and yield its address and process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "cxrfeat.web", "--head", str(head), "--weights", options.weights]
    words += ["--backbone", options.backbone, "--port", str(port), "--threads", str(options.threads)]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as process:
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_for(address, process)
            yield address, psutil.Process(process.pid)
        finally:
            process.terminate()


def _wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < end:
        try:
            httpx.get(f"{address}/healthz")
        except httpx.ConnectError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"no service at {address}: the command ended with {process.poll()}")


def bare(film: bytes, spec: EncoderSpec, head: Path) -> Callable[[], object]:
    """Return a function that answers for one film in this process."""
    encoder, predictor = FrozenEncoder(spec), Predictor(load_bundle(head), DEFAULT_RULE)
    unknown = {name: np.array([np.nan], np.float32) for name in (AGE, SEX)}

    def answer() -> object:
        model_input = preprocess.to_model_input(png_jpeg.decode(film).pixels)
        return predictor.to_columns(predictor.predict(encoder.embed(model_input[np.newaxis]), unknown))

    return answer


def compare(address: str, film: bytes, answer: Callable[[], object], requests: int) -> None:
    """Let both answer in turn, and print percentiles and their ratio."""
    seconds: dict[str, list[float]] = {"bare": [], "service": []}
    with httpx.Client(base_url=address, timeout=60) as client:

        def ask() -> None:
            client.post("/api/predict", content=film, headers=_HEADERS).raise_for_status()

        for number in range(_WARM_UP + requests):
            for name, once in (("bare", answer), ("service", ask)):
                start = time.perf_counter()
                once()
                if number >= _WARM_UP:
                    seconds[name].append(time.perf_counter() - start)
    for name, values in seconds.items():
        p50, p95 = np.percentile(values, [50, 95]) * 1000
        print(f"{name:<8} p50 {p50:7.1f} ms   p95 {p95:7.1f} ms")
    ratio = statistics.median(seconds["service"]) / statistics.median(seconds["bare"])
    print(f"service / bare at p50  {ratio:.2f}   (bar: 1.3)")


def besiege(address: str, film: bytes, process: psutil.Process, clients: int, seconds: float) -> None:
    """Let clients ask as fast as they are answered, and print statuses and memory."""
    statuses: Counter[str] = Counter()
    memory: list[float] = []
    end = time.monotonic() + seconds

    def visit() -> None:
        with httpx.Client(base_url=address, timeout=60) as client:
            while time.monotonic() < end:
                try:
                    response = client.post("/api/predict", content=film, headers=_HEADERS)
                except httpx.HTTPError as error:
                    statuses[type(error).__name__] += 1
                    continue
                statuses[str(response.status_code)] += 1
                time.sleep(float(response.headers.get("retry-after", 0)))

    threads = [threading.Thread(target=visit) for _ in range(clients)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        memory.append(process.memory_full_info().pss / _MIB)
        time.sleep(_POLL_S)
    fifth = max(1, len(memory) // 5)
    early, late = statistics.median(memory[fifth : 2 * fifth] or memory), statistics.median(memory[-fifth:])
    print(f"{clients} clients, {seconds:g} s: {dict(statuses)}, {statuses['200'] / seconds:.1f} films/s")
    print(f"memory of the service: {early:.0f} MiB in the second fifth, {late:.0f} in the last ({late / early:.3f})")


def main(argv: Sequence[str] | None = None) -> int:
    """Run both measurements against one service."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--weights", default=RANDOM)
    parser.add_argument("--backbone", choices=sorted(BACKBONES), default="resnet50")
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60)
    # One, because two threads that wait for each other on cores that somebody else uses measure the somebody else.
    parser.add_argument("--threads", type=int, default=1, help="of the network, in the service as in this process")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    backbone = BACKBONES[options.backbone]
    spec = EncoderSpec(backbone.name, find_weights(backbone, options.weights), batch_size=1)
    patient = make_patient(0, 1)
    film = png(draw(patient, make_studies(patient)[0], 1024))
    print(f"{machine.describe()}; {options.threads} threads; a phantom of 1024 x 1024, {len(film) / 1000:.0f} KB")
    with tempfile.TemporaryDirectory() as scratch:
        head = make_head(Path(scratch) / "head", spec.fingerprint, backbone.dim)
        with service(head, options) as (address, process):
            compare(address, film, bare(film, spec, head), options.requests)
            besiege(address, film, process, options.clients, options.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
