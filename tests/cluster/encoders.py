"""An exact, slow encoder that records which task held which device at what time."""

from __future__ import annotations

import json
import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxrfeat.backbones.encoder import Encoder, EncoderSpec
from cxrfeat.images.preprocess import DEFAULT_INPUT
from tests.fakes import fake_embedding

BATCH = 4
DIM = 2048
"""As long as a real embedding, so that files have their real size."""


@dataclass(frozen=True)
class Call:
    """One batch, as a worker saw it.

    Attributes:
        task: unique name of the task.
        pid: process id of the Python worker.
        device: device that the encoder was built for.
        threads: number of threads of the encoder.
        images: number of images in the batch.
        begin, end: Unix time, s; the first call of a task begins when the task got its encoder.
    """

    task: str
    pid: int
    device: str
    threads: int
    images: int
    begin: float
    end: float


class RecordingEncoder:
    """Encoder whose embeddings repeat :func:`tests.fakes.fake_embedding` and add the index of each number."""

    def __init__(self, folder: Path, spec: EncoderSpec, device: str, threads: int, delay: float) -> None:
        self.dim = DIM
        self.input = DEFAULT_INPUT
        self.fingerprint = spec.fingerprint
        self.precision = "fp32"
        self.batch_size = BATCH
        self._folder, self._device, self._threads, self._delay = folder, device, threads, delay
        self._task = uuid.uuid4().hex
        self._begin = time.time()

    def embed(self, inputs: NDArray[np.uint8]) -> NDArray[np.float32]:
        time.sleep(self._delay)
        end = time.time()
        call = Call(self._task, os.getpid(), self._device, self._threads, len(inputs), self._begin, end)
        with (self._folder / f"{call.pid}.jsonl").open("a") as lines:
            lines.write(json.dumps(vars(call)) + "\n")
        self._begin = end
        return np.array([long_embedding(image) for image in inputs], dtype=np.float32)


def long_embedding(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Embed one model input as :class:`RecordingEncoder` does."""
    first = np.array(fake_embedding(image))
    return (np.resize(first, DIM) + np.arange(DIM)).astype(np.float32)


@dataclass(frozen=True)
class Recorder:
    """Builds recording encoders: an :data:`cxrfeat.backbones.encoder.EncoderFactory` that travels to the workers.

    Attributes:
        folder: folder of their records.
        delay: time per batch, s.
    """

    folder: Path
    delay: float = 0.1

    def __call__(self, spec: EncoderSpec, device: str, threads: int) -> Encoder:
        return RecordingEncoder(self.folder, spec, device, threads, self.delay)

    def calls(self) -> list[Call]:
        """Return the calls so far, by worker and in the order of time."""
        lines = [line for path in sorted(self.folder.glob("*.jsonl")) for line in path.read_text().splitlines()]
        return [Call(**json.loads(line)) for line in lines]
