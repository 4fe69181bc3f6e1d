"""Frozen encoder: model inputs → embeddings, on a given device and in a given precision.

Frozen means eval mode, no gradients, and BatchNorm and standardisation folded into the convolutions, so that no buffer
can change. The same input gives the same bits, whatever else is in its batch.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cxrfeat.backbones.gray_stem import count_planes, fold_standardisation, to_planes
from cxrfeat.backbones.registry import get_backbone
from cxrfeat.backbones.resnet import ResNet
from cxrfeat.backbones.resnet_fused import Trunk, can_fuse, fuse_trunk
from cxrfeat.backbones.weights import Weights, fingerprint, load_network
from cxrfeat.device import Precision, open_device, resolve_precision, to_dtype
from cxrfeat.errors import ConfigError
from cxrfeat.images import preprocess

_LOG = logging.getLogger(__name__)

_CPU_BATCH, _CUDA_BATCH = 16, 128
"""Images per batch: the fastest of 4–32 on a Zen 4 core in bf16 (benchmarks/LOG.md), and enough to fill a GPU."""

_BF16_BITS = 16
"""Significant bits kept of an embedding computed in bf16."""


class Encoder(Protocol):
    """Interface of a network in :mod:`cxrfeat.pipeline.embed`; tests pass a tiny exact one.

    Attributes:
        dim: length of an embedding.
        fingerprint: identifies backbone, weights and preprocessing.
        precision: ``fp32`` or ``bf16``.
        batch_size: preferred number of images per call.
    """

    dim: int
    fingerprint: str
    precision: str
    batch_size: int

    def embed(self, inputs: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Turn (N, 224, 224) uint8 model inputs into (N, dim) float32 embeddings."""
        ...


@dataclass(frozen=True)
class EncoderSpec:
    """Everything a worker needs to build an encoder; also the key of the worker's cache.

    Attributes:
        backbone: name in the registry.
        weights: the weights file, at a path that the worker can read.
        precision: auto, fp32 or bf16; the final pooling is always in fp32.
        batch_size: images per batch, or None for the device's default.
    """

    backbone: str
    weights: Weights
    precision: Precision = Precision.AUTO
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError for a batch size below 1 or an unknown backbone or precision."""
        get_backbone(self.backbone)
        if self.precision not in list(Precision):
            raise ConfigError(f"unknown precision {self.precision!r}; expected one of {', '.join(Precision)}")
        object.__setattr__(self, "precision", Precision(self.precision))
        if self.batch_size is not None and self.batch_size < 1:
            raise ConfigError(f"batch size {self.batch_size}; expected at least 1")

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the encoder: backbone, weights and preprocessing."""
        return fingerprint(get_backbone(self.backbone), self.weights)


def default_batch_size(device_type: str) -> int:
    """Return the default number of images per batch on a ``cpu`` or ``cuda`` device."""
    return _CUDA_BATCH if device_type == "cuda" else _CPU_BATCH


EncoderFactory = Callable[[EncoderSpec, str, int], Encoder]
"""Builds an encoder from its spec on a device such as ``cpu`` or ``cuda:1``, with a number of CPU threads."""


class FrozenEncoder:
    """A frozen ResNet that implements :class:`Encoder`."""

    def __init__(self, spec: EncoderSpec, device: str = "cpu") -> None:
        """Load the weights and prepare the network.

        Raises:
            WeightsError: the weights are unreadable or do not match the network.
            DeviceError: the device does not exist.
        """
        backbone = get_backbone(spec.backbone)
        self.device = open_device(device)
        precision = resolve_precision(spec.precision, self.device)
        self.precision = precision.value
        self.batch_size = spec.batch_size or default_batch_size(self.device.type)
        self.dim = backbone.dim
        self.fingerprint = spec.fingerprint
        self._dtype = to_dtype(precision)
        layers: list[Any] = list(fold_batchnorm(load_network(backbone, spec.weights)))
        trunk = nn.Sequential(fold_standardisation(layers[0], self._dtype), *layers[1:])
        trunk = trunk.to(self.device, self._dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        shape = (self.batch_size, count_planes(self._dtype), preprocess.SIDE, preprocess.SIDE)
        self._trunk: Trunk = fuse_trunk(trunk, shape) if can_fuse(self.device) else trunk

    def embed(self, inputs: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Turn (N, 224, 224) uint8 model inputs into (N, dim) float32 embeddings.

        A partial batch is padded with black images: the batch size selects the convolution kernels, and an image's
        embedding must not depend on the number of other images in its batch.
        """
        embeddings = np.empty((len(inputs), self.dim), dtype=np.float32)
        for part, feature_maps in self._feature_maps(inputs):
            embeddings[part] = self._pool(feature_maps)[: part.stop - part.start]
        return embeddings

    def embed_with_maps(self, inputs: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return embeddings equal to those of :meth:`embed`, bit for bit, and the feature maps they are the means of.

        Args:
            inputs: (N, 224, 224) uint8 model inputs, at least one.

        Returns:
            (N, dim) float32 embeddings and (N, dim, h, w) float32 feature maps; h = w = 7 for a ResNet.
        """
        embeddings, maps = [], []
        for part, feature_maps in self._feature_maps(inputs):
            count = part.stop - part.start
            embeddings.append(self._pool(feature_maps)[:count])
            maps.append(feature_maps[:count].cpu().numpy())
        return np.concatenate(embeddings), np.concatenate(maps)

    @torch.inference_mode()
    def _feature_maps(self, inputs: NDArray[np.uint8]) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield the slice of inputs in each batch and the (batch_size, dim, h, w) float32 maps of the padded batch."""
        start = 0
        while start < len(inputs):
            part = inputs[start : start + self.batch_size]
            batch = np.zeros((self.batch_size, *part.shape[1:]), dtype=np.uint8)  # (batch_size, H, W)
            batch[: len(part)] = part
            try:
                feature_maps = self._forward(batch)  # (batch_size, dim, h, w)
            except torch.OutOfMemoryError:
                if self.batch_size == 1:
                    raise
                feature_maps = None
            # Free memory outside the except block: inside it, the traceback still holds the tensors.
            if feature_maps is None:
                self._halve_batch()
            else:
                yield slice(start, start + len(part)), feature_maps
                start += len(part)

    def _halve_batch(self) -> None:
        """Halve the batch size for this and all later calls, and log a warning."""
        smaller = self.batch_size // 2
        _LOG.warning("%s: out of memory at batch size %d; continuing with %d", self.device, self.batch_size, smaller)
        self.batch_size = smaller
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def to_device(self, inputs: NDArray[np.uint8]) -> torch.Tensor:
        """Return the inputs as a tensor on the encoder's device; on CUDA the copy is asynchronous."""
        gray = torch.from_numpy(inputs)  # (N, H, W) uint8
        return gray.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else gray

    def _forward(self, batch: NDArray[np.uint8]) -> torch.Tensor:
        # (N, H, W) uint8 → (N, planes, H, W) → (N, dim, h, w) float32
        return self._trunk(to_planes(self.to_device(batch), self._dtype)).float()

    def _pool(self, feature_maps: torch.Tensor) -> NDArray[np.float32]:
        """Average a whole padded batch, so that the kernel of the mean does not depend on the number of images."""
        pooled: NDArray[np.float32] = feature_maps.mean(dim=(2, 3)).cpu().numpy()  # (batch_size, dim)
        return pooled if self._dtype == torch.float32 else round_to_bits(pooled)


def round_to_bits(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round embeddings to 16 significant bits: bf16 computes 8, and incompressible noise is a quarter of a file."""
    fractions, exponents = np.frexp(values)  # values = fractions · 2**exponents, 0.5 <= |fractions| < 1
    scale = np.float32(1 << _BF16_BITS)
    rounded: NDArray[np.float32] = np.ldexp(np.rint(fractions * scale) / scale, exponents)
    return rounded


def fold_batchnorm(network: ResNet) -> nn.Sequential:
    """Return the convolutional trunk of a bottleneck ResNet in eval mode with every BatchNorm folded away.

    The network is modified in place and must not be used afterwards.

    Source: y = γ·(Wx − μ)/√(σ² + ε) + β is one convolution; torch.nn.utils.fusion.
    """
    stages = (network.layer1, network.layer2, network.layer3, network.layer4)
    blocks: list[Any] = [block for stage in stages for block in stage]
    for block in blocks:
        for index in (1, 2, 3):
            convolution, norm = getattr(block, f"conv{index}"), getattr(block, f"bn{index}")
            setattr(block, f"conv{index}", fuse_conv_bn_eval(convolution, norm))
            setattr(block, f"bn{index}", nn.Identity())
        if block.downsample is not None:
            block.downsample = fuse_conv_bn_eval(*block.downsample)
    stem = fuse_conv_bn_eval(network.conv1, network.bn1)
    return nn.Sequential(stem, network.relu, network.maxpool, *stages)


@functools.lru_cache(maxsize=1)
def load_encoder(spec: EncoderSpec, device: str, threads: int) -> Encoder:
    """Build an encoder, or return the one cached in this process: Spark reuses its Python workers."""
    torch.set_num_threads(threads)
    return FrozenEncoder(spec, device)
