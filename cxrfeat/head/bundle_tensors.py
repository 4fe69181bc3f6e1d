"""Tensors of a bundle, ``head.safetensors``: read and checked before a network is allocated."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import safetensors
import safetensors.torch
import torch

from cxrfeat.errors import BundleError
from cxrfeat.head.calibration import Calibration
from cxrfeat.head.mlp import Head

WEIGHTS = "head.safetensors"
MEAN, SCALE = "inputs.mean", "inputs.scale"
"""Name of the file, and of the tensors with the statistics of the inputs."""

MAX_MAGNITUDE = 1e12
"""Limit of weights, means and scales, and the inverse of the smallest scale: beyond it, float32 overflows in a head."""

_PROBES = (-100.0, 0.0, 100.0)
"""Standardised values of all columns at which a loaded head must be finite."""


def read_tensors(folder: str, weights: bytes) -> dict[str, torch.Tensor]:
    """Return the tensors of the weights file, all float32, finite and of bounded magnitude."""
    try:
        tensors = safetensors.torch.load(weights)
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise BundleError(f"{folder}/{WEIGHTS} is not a valid safetensors file: {error}") from error
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise BundleError(f"{folder}: tensor {name!r} is {tensor.dtype}; expected float32")
        if not bool(tensor.isfinite().all()):
            raise BundleError(f"{folder}: tensor {name!r} contains NaN or infinity")
        if tensor.numel() and float(tensor.abs().max()) > MAX_MAGNITUDE:
            largest = float(tensor.abs().max())
            raise BundleError(f"{folder}: tensor {name!r} contains {largest:g}; the limit is {MAX_MAGNITUDE:g}")
    if SCALE in tensors and tensors[SCALE].numel() and float(tensors[SCALE].min()) < 1 / MAX_MAGNITUDE:
        smallest = float(tensors[SCALE].min())
        raise BundleError(f"{folder}: a scale is {smallest:g}; expected at least {1 / MAX_MAGNITUDE:g}")
    return tensors


def check_shapes(folder: str, tensors: Mapping[str, torch.Tensor], widths: Sequence[int], dims: Any) -> None:
    """Check that the tensors are those of a head with layers of the given widths."""
    expected: dict[str, tuple[int, ...]] = {}
    for layer, (before, after) in enumerate(itertools.pairwise(widths)):
        expected |= {f"layers.{layer}.weight": (after, before), f"layers.{layer}.bias": (after,)}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != expected:
        different = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        shown = [f"{name} is {found.get(name, 'missing')}; expected {expected.get(name, 'none')}" for name in different]
        raise BundleError(f"{folder}: the weights do not match dims {json.dumps(dims)}: {'. '.join(shown[:5])}")


@torch.inference_mode()
def check_finite(folder: str, head: Head, calibration: Calibration, width: int) -> None:
    """Check that a head gives probabilities for plausible inputs."""
    probes = torch.tensor(_PROBES).unsqueeze(1).expand(-1, width)  # (3, width)
    logits = head(probes)  # (3, F)
    if not bool(logits.isfinite().all() and calibration.apply(logits.clone()).isfinite().all()):
        raise BundleError(f"{folder}: the head gives NaN or infinity for finite inputs")
