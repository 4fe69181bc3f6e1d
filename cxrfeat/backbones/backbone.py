"""Description of a frozen backbone: everything that the encoder needs to know about a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from cxrfeat.errors import ConfigError
from cxrfeat.images.preprocess import Fit, InputSpec

State = dict[str, torch.Tensor]
"""Tensors of a network by name."""


class PublishedWeights(Protocol):
    """Interface of the weights that a source publishes for a network."""

    @property
    def names(self) -> Sequence[str]:
        """Names of the weights; the first is the default."""
        ...

    @property
    def host(self) -> str:
        """Host that they are downloaded from, for messages."""
        ...

    def cached(self, name: str) -> Path:
        """Return where the source's cache keeps the weights; the file need not exist."""
        ...

    def fetch(self, name: str) -> Path:
        """Download the weights into the cache and return the file.

        Raises:
            OSError, RuntimeError, ValueError: the download fails.
        """
        ...


Trunk = Callable[[torch.Tensor], torch.Tensor]
"""(N, C, H, W) standardised images → (N, dim, h, w) feature maps, whose mean is the embedding, or (N, dim) vectors."""


class Runner(Protocol):
    """A network that is ready to run on its device.

    Attributes:
        batch_size: number of images in every call.
    """

    batch_size: int

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Turn (batch_size, H, W) uint8 into (batch_size, dim, h, w) or (batch_size, dim) float32."""
        ...


@dataclass(frozen=True)
class RunnerSettings:
    """Device, precision and input of a network.

    Attributes:
        device: torch device.
        dtype: float32 or bfloat16.
        batch_size: images per call that the user or the device's default asks for.
        input: the network's input.
    """

    device: torch.device
    dtype: torch.dtype
    batch_size: int
    input: InputSpec


@dataclass(frozen=True)
class Backbone:
    """A frozen network.

    Attributes:
        name: value of ``--backbone`` on the command line.
        dim: length of an embedding.
        build: builds the network for an input size, with the random weights of its source.
        trunk: returns the part of a network that computes the embedding, as a module; it shares the network's tensors.
        input: input that the network was trained with.
        size_step: the input size must be a multiple of it.
        min_size: smallest input size that the network accepts.
        pooling: how the embedding is made, for people: mean, class token, …
        parameters: number of parameters of the trunk.
        licence: licence of the network and its weights.
        classifier: prefixes of tensor names that are no part of the trunk, and may be missing or have any shape.
        published: weights that the source publishes; None if a file is needed.
        skeleton: builds the network with uninitialised weights, for the meta device; None if ``build`` must be used.
        check_state: raises WeightsError for a state of the right shapes that would give wrong features.
        adapt_state: converts published or foreign states, for example resizes position embeddings.
        pickled_classes: returns the classes that a published file may contain beside tensors; None for none.
        optimise: returns a faster runner for a device, or None where it has none; see :mod:`.resnet_fused`.
    """

    name: str
    dim: int
    build: Callable[[int], nn.Module]
    trunk: Callable[[Any], nn.Module]
    input: InputSpec = field(default_factory=InputSpec)
    size_step: int = 1
    min_size: int = 32
    pooling: str = "mean"
    parameters: int = 0
    licence: str = ""
    classifier: tuple[str, ...] = ("fc.",)
    published: PublishedWeights | None = None
    skeleton: Callable[[], nn.Module] | None = None
    check_state: Callable[[str, Mapping[str, torch.Tensor], Path], None] | None = None
    adapt_state: Callable[[State, Any], State] | None = None
    pickled_classes: Callable[[], Sequence[type]] | None = None
    optimise: Callable[[Any, RunnerSettings], Runner | None] | None = None

    def with_input(self, size: int | None = None, fit: Fit | None = None) -> Backbone:
        """Return the backbone with another input size or fit.

        Raises:
            ConfigError: the network does not accept the size.
        """
        spec = self.input if size is None else replace(self.input, size=size)
        if fit is not None:
            spec = replace(spec, fit=fit)
        if spec.size < self.min_size or spec.size % self.size_step:
            step = f", in multiples of {self.size_step}" if self.size_step > 1 else ""
            raise ConfigError(
                f"input size {spec.size} for backbone {self.name}; expected at least {self.min_size} pixels{step}"
            )
        return replace(self, input=spec)
