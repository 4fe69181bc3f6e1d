"""Frozen encoder: model inputs → embeddings, on a given device and in a given precision.

Frozen means eval mode and no gradients. The same input gives the same bits, whatever else is in its batch.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from cxrfeat.backbones.backbone import Backbone, Runner, RunnerSettings
from cxrfeat.backbones.openvino_runner import OpenVinoRunner, import_openvino, open_model
from cxrfeat.backbones.quantized import find_quantized, read_quantized
from cxrfeat.backbones.registry import get_backbone
from cxrfeat.backbones.torch_runner import TorchRunner
from cxrfeat.backbones.weights import Weights, check_network, fingerprint, load_network
from cxrfeat.device import Engine, Precision, open_device, resolve_precision, to_dtype
from cxrfeat.errors import ConfigError
from cxrfeat.images.preprocess import Fit, InputSpec

_LOG = logging.getLogger(__name__)

_CPU_BATCH, _CUDA_BATCH = 16, 128
"""Images per batch: the fastest of 4–32 on a Zen 4 core in bf16 (benchmarks/LOG.md), and enough to fill a GPU."""

_BF16_BITS = 16
"""Significant bits kept of an embedding computed in bf16."""


class Encoder(Protocol):
    """Interface of a network in :mod:`cxrfeat.pipeline.embed`; tests pass a tiny exact one.

    Attributes:
        dim: length of an embedding.
        input: the model inputs that it takes.
        fingerprint: identifies backbone, weights and input.
        precision: ``fp32``, ``bf16`` or ``int8``.
        batch_size: preferred number of images per call.
    """

    dim: int
    input: InputSpec
    fingerprint: str
    precision: str
    batch_size: int

    def embed(self, inputs: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Turn (N, size, size) uint8 model inputs into (N, dim) float32 embeddings."""
        ...


@dataclass(frozen=True)
class EncoderSpec:
    """Everything a worker needs to build an encoder; also the key of the worker's cache.

    Attributes:
        backbone: name in the registry.
        weights: the weights file, at a path that the worker can read.
        precision: auto, fp32 or bf16; the final pooling is always in fp32.
        batch_size: images per batch, or None for the device's default.
        input_size: height and width of the input in pixels, or None for that of the backbone.
        fit: how an image becomes a square, or None for the backbone's default.
        engine: library that runs the network; None for torch, or for openvino if the network is quantised.
    """

    backbone: str
    weights: Weights
    precision: Precision = Precision.AUTO
    batch_size: int | None = None
    input_size: int | None = None
    fit: Fit | None = None
    engine: Engine | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError for an unknown name, a batch size below 1 or an impossible input size."""
        self.resolve()
        if self.engine is not None:
            object.__setattr__(self, "engine", Engine(self.engine))
        if self.precision not in list(Precision):
            raise ConfigError(f"unknown precision {self.precision!r}; expected one of {', '.join(Precision)}")
        object.__setattr__(self, "precision", Precision(self.precision))
        if self.batch_size is not None and self.batch_size < 1:
            raise ConfigError(f"batch size {self.batch_size}; expected at least 1")

    def resolve(self) -> Backbone:
        """Return the backbone with the input of this spec."""
        return get_backbone(self.backbone).with_input(self.input_size, self.fit)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the encoder: backbone, weights and input."""
        return fingerprint(self.resolve(), self.weights)


def default_batch_size(device_type: str) -> int:
    """Return the default number of images per batch on a ``cpu`` or ``cuda`` device."""
    return _CUDA_BATCH if device_type == "cuda" else _CPU_BATCH


EncoderFactory = Callable[[EncoderSpec, str, int], Encoder]
"""Builds an encoder from its spec on a device such as ``cpu`` or ``cuda:1``, with a number of CPU threads."""


class FrozenEncoder:
    """A frozen network that implements :class:`Encoder`.

    Attributes:
        has_maps: True if an embedding is the mean of a feature map, which :meth:`embed_with_maps` needs.
    """

    def __init__(self, spec: EncoderSpec, device: str = "cpu") -> None:
        """Load the weights and prepare the network.

        Raises:
            WeightsError: the weights are unreadable or do not match the network.
            DeviceError: the device does not exist.
        """
        backbone = spec.resolve()
        self.device = open_device(device)
        precision = resolve_precision(spec.precision, self.device)
        is_int8 = find_quantized(spec.weights) is not None
        self.precision = "int8" if is_int8 else precision.value
        self.batch_size = spec.batch_size or default_batch_size(self.device.type)
        self.dim = backbone.dim
        self.input = backbone.input
        self.fingerprint = spec.fingerprint
        self._round = is_int8 or precision != Precision.FP32
        settings = RunnerSettings(self.device, to_dtype(precision), self.batch_size, self.input)
        self._runner = _make_runner(backbone, spec, settings)

    @functools.cached_property
    def has_maps(self) -> bool:
        """True if an embedding is the mean of a feature map, which :meth:`embed_with_maps` needs."""
        black = np.zeros((1, self.input.size, self.input.size), dtype=np.uint8)
        return next(self._outputs(black))[1].ndim == 4

    def embed(self, inputs: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Turn (N, size, size) uint8 model inputs into (N, dim) float32 embeddings.

        A partial batch is padded with black images: the batch size selects the convolution kernels, and an image's
        embedding must not depend on the number of other images in its batch.
        """
        embeddings = np.empty((len(inputs), self.dim), dtype=np.float32)
        for part, output in self._outputs(inputs):
            embeddings[part] = self._pool(output)[: part.stop - part.start]
        return embeddings

    def embed_with_maps(self, inputs: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return embeddings equal to those of :meth:`embed`, bit for bit, and the feature maps they are the means of.

        Args:
            inputs: (N, size, size) uint8 model inputs, at least one.

        Returns:
            (N, dim) float32 embeddings and (N, dim, h, w) float32 feature maps; h = w = 7 for ResNet50 at 224 pixels.

        Raises:
            ConfigError: the backbone's embedding is not the mean of a map; see :attr:`has_maps`.
        """
        embeddings, maps = [], []
        for part, output in self._outputs(inputs):
            if output.ndim != 4:
                raise ConfigError(f"no feature maps: the embedding of {self.fingerprint} is not the mean of a map")
            count = part.stop - part.start
            embeddings.append(self._pool(output)[:count])
            maps.append(output[:count].cpu().numpy())
        return np.concatenate(embeddings), np.concatenate(maps)

    @torch.inference_mode()
    def _outputs(self, inputs: NDArray[np.uint8]) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield the slice of inputs in each batch and the network's output for the padded batch.

        The output is (batch, dim, h, w) or (batch, dim) float32.
        """
        start = 0
        while start < len(inputs):
            size = self._runner.batch_size
            part = inputs[start : start + size]
            batch = np.zeros((size, *part.shape[1:]), dtype=np.uint8)  # (batch, H, W)
            batch[: len(part)] = part
            try:
                output = self._forward(batch)
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                output = None
            # Free memory outside the except block: inside it, the traceback still holds the tensors.
            if output is None:
                self._halve_batch()
            else:
                yield slice(start, start + len(part)), output
                start += len(part)

    def _halve_batch(self) -> None:
        """Halve the batch size for this and all later calls, and log a warning."""
        size = self._runner.batch_size
        _LOG.warning("%s: out of memory at batch size %d; continuing with %d", self.device, size, size // 2)
        self._runner.batch_size = size // 2
        self.batch_size = min(self.batch_size, size // 2)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def to_device(self, inputs: NDArray[np.uint8]) -> torch.Tensor:
        """Return the inputs as a tensor on the encoder's device; on CUDA the copy is asynchronous."""
        gray = torch.from_numpy(inputs)  # (N, H, W) uint8
        return gray.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else gray

    def _forward(self, batch: NDArray[np.uint8]) -> torch.Tensor:
        # (N, H, W) uint8 → (N, dim, h, w) or (N, dim) float32
        return self._runner(self.to_device(batch))

    def _pool(self, output: torch.Tensor) -> NDArray[np.float32]:
        """Average a whole padded batch, so that the kernel of the mean does not depend on the number of images."""
        vectors = output.mean(dim=(2, 3)) if output.ndim == 4 else output  # (batch, dim)
        pooled: NDArray[np.float32] = vectors.cpu().numpy()
        return round_to_bits(pooled) if self._round else pooled


def check_encoder(spec: EncoderSpec) -> None:
    """Check on the driver that an encoder can be built, so that an error is one line.

    Raises:
        WeightsError: the weights do not match the backbone.
        ConfigError: the network does not accept the input size, or a package is missing.
    """
    backbone = spec.resolve()
    if quantized := find_quantized(spec.weights):
        _open_quantized(quantized, spec, backbone)
        return
    if spec.engine == Engine.OPENVINO:
        import_openvino()
    if spec.input_size is None:
        load_network(backbone, spec.weights)
    else:
        check_network(backbone, spec.weights)


def _open_quantized(path: Path, spec: EncoderSpec, backbone: Backbone) -> Any:
    if spec.engine == Engine.TORCH:
        raise ConfigError(f"{path} is a quantised network, which needs --engine openvino")
    return read_quantized(path, backbone)


def _make_runner(backbone: Backbone, spec: EncoderSpec, settings: RunnerSettings) -> Runner:
    if quantized := find_quantized(spec.weights):
        return OpenVinoRunner(_open_quantized(quantized, spec, backbone), settings)
    if spec.engine == Engine.OPENVINO:
        return OpenVinoRunner(open_model(backbone, spec.weights), settings)
    network = load_network(backbone, spec.weights)
    runner = backbone.optimise(network, settings) if backbone.optimise else None
    return runner or TorchRunner(backbone.trunk(network), settings)


def round_to_bits(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round embeddings to 16 significant bits: bf16 computes 8, and incompressible noise is a quarter of a file."""
    fractions, exponents = np.frexp(values)  # values = fractions · 2**exponents, 0.5 <= |fractions| < 1
    scale = np.float32(1 << _BF16_BITS)
    rounded: NDArray[np.float32] = np.ldexp(np.rint(fractions * scale) / scale, exponents)
    return rounded


@functools.lru_cache(maxsize=1)
def open_encoder(spec: EncoderSpec, device: str, threads: int) -> Encoder:
    """Build an encoder, or return the one cached in this process: Spark reuses its Python workers."""
    torch.set_num_threads(threads)
    return FrozenEncoder(spec, device)
