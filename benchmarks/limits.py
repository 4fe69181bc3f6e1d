"""The least time that a network can take on a device: its arithmetic, and its memory traffic, at measured rates.

The FLOP bound divides the network's operations by the rate of one large matrix product in the same precision. The memory
bound lets every layer read its input and weights and write its output once, without any cache, and divides by the rate of
a large copy: a network that keeps activations in cache, or fuses layers, can be below it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cxrfeat.backbones.encoder import EncoderSpec, fold_batchnorm
from cxrfeat.backbones.registry import get_backbone
from cxrfeat.backbones.weights import load_network
from cxrfeat.device import resolve_precision, to_dtype
from cxrfeat.images.preprocess import SIDE

_GEMM_SIDE = {"cpu": 2048, "cuda": 8192}
_COPY_BYTES = 256 * 1024**2
_TRIES = 5


@dataclass(frozen=True)
class Bound:
    """What one image costs at least.

    Attributes:
        gflop: operations, 10⁹; a multiplication and an addition are two.
        mib: memory traffic.
        gflops, gib_per_s: measured rates of this device, on one thread if it is a CPU.
    """

    gflop: float
    mib: float
    gflops: float
    gib_per_s: float

    @property
    def flop_ms(self) -> float:
        """Milliseconds of arithmetic."""
        return 1000 * self.gflop / self.gflops

    @property
    def memory_ms(self) -> float:
        """Milliseconds of memory traffic."""
        return 1000 * self.mib / 1024 / self.gib_per_s


def of_network(spec: EncoderSpec, batch_size: int, device: str) -> Bound:
    """Count what the encoder's trunk does for an image, and measure how fast this device could."""
    where = torch.device(device)
    dtype = to_dtype(resolve_precision(spec.precision, where))
    trunk = fold_batchnorm(load_network(get_backbone(spec.backbone), spec.weights))
    size = torch.empty(0, dtype=dtype).element_size()
    return Bound(
        gflop=count_flops(trunk) / 1e9,
        mib=count_elements(trunk, batch_size) * size / 2**20,
        gflops=_gemm_rate(where, dtype) / 1e9,
        gib_per_s=_copy_rate(where) / 2**30,
    )


def count_flops(trunk: nn.Module) -> int:
    """Return the floating-point operations of one image."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        trunk(torch.zeros(1, 3, SIDE, SIDE))
    return int(counter.get_total_flops())


def count_elements(trunk: nn.Module, batch_size: int) -> float:
    """Return the numbers that the convolutions read and write for one image, weights shared by a batch."""
    total = 0.0

    def add(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        weights = sum(parameter.numel() for parameter in layer.parameters())
        total += inputs[0].numel() + output.numel() + weights / batch_size

    hooks = [layer.register_forward_hook(add) for layer in trunk.modules() if isinstance(layer, nn.Conv2d)]
    with torch.inference_mode():
        trunk(torch.zeros(1, 3, SIDE, SIDE))
    for hook in hooks:
        hook.remove()
    return total


def _gemm_rate(device: torch.device, dtype: torch.dtype) -> float:
    side = _GEMM_SIDE[device.type]
    left, right = (torch.randn(side, side).to(device, dtype) for _ in range(2))
    product = torch.empty(side, side, device=device, dtype=dtype)
    return 2 * side**3 / _fastest(lambda: torch.mm(left, right, out=product), device)


def _copy_rate(device: torch.device) -> float:
    """Return bytes/s, those read and those written."""
    source = torch.ones(_COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * _COPY_BYTES / _fastest(lambda: target.copy_(source), device)


def _fastest(do: Callable[[], object], device: torch.device) -> float:
    seconds = []
    for _ in range(_TRIES + 1):
        start = time.perf_counter()
        do()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
