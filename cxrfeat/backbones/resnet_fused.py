"""A bottleneck ResNet's trunk with each convolution, its addition and its ReLU in one primitive: oneDNN's or cuDNN's.

One primitive adds in fp32 and rounds once, so it is more exact in bf16 too. oneDNN's are the operators that ``torch.compile``
lowers to on a CPU (torch/_inductor/fx_passes/mkldnn_fusion.py), cuDNN's those that TorchScript froze networks to; called by
hand they need no compiler and no minutes of compilation in every worker. benchmarks/LOG.md has what they are worth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn

Trunk = Callable[[torch.Tensor], torch.Tensor]
"""(N, planes, H, W) → (N, dim, h, w) feature maps, in the network's dtype, channels last."""

_AMPERE = (8, 0)


def can_fuse(device: torch.device) -> bool:
    """Say whether a device has these operators: a CPU where torch has oneDNN, a GPU of the Ampere generation or later."""
    if device.type == "cpu":
        return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    cudnn = bool(torch.backends.cudnn.is_available())  # type: ignore[no-untyped-call]
    return cudnn and torch.cuda.get_device_capability(device) >= _AMPERE


@torch.inference_mode()
def fuse_trunk(trunk: nn.Sequential, input_shape: tuple[int, int, int, int]) -> Trunk:
    """Return a function that computes what the trunk does.

    Args:
        trunk: of :func:`cxrfeat.backbones.encoder.fold_batchnorm`, on its device, in its final dtype.
        input_shape: (N, planes, H, W) for which a CPU lays weights out; others are computed too, but slower.
    """
    layers: list[Any] = list(trunk)
    stem, _, pool, *stages = layers
    shapes = _input_shapes(trunk, input_shape)
    kind = _OneDnnConvolution if stem.weight.device.type == "cpu" else _CudnnConvolution

    def fuse(convolution: nn.Conv2d) -> _Convolution:
        return kind(convolution, shapes[convolution])

    first = fuse(stem)
    blocks = [_Block(block, fuse) for stage in stages for block in stage]

    def run(planes: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = pool(first(planes, relu=True))
        for block in blocks:
            maps = block(maps)
        return maps

    return run


class _Convolution(Protocol):
    """A convolution and what follows it."""

    def __call__(self, maps: torch.Tensor, *, relu: bool) -> torch.Tensor:
        """Return the convolution of maps, or its ReLU."""
        ...

    def add_to(self, shortcut: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        """Return ReLU(shortcut + convolution of maps); the shortcut's memory may be taken for it."""
        ...


class _OneDnnConvolution:
    """On a CPU, its weights packed."""

    def __init__(self, convolution: nn.Conv2d, input_shape: list[int]) -> None:
        self._bias = convolution.bias
        self._geometry = (convolution.padding, convolution.stride, convolution.dilation, convolution.groups)
        self._weight = torch.ops.mkldnn._reorder_convolution_weight(convolution.weight, *self._geometry, input_shape)

    def __call__(self, maps: torch.Tensor, *, relu: bool) -> torch.Tensor:
        after = "relu" if relu else "none"
        result: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
            maps, self._weight, self._bias, *self._geometry, after, [], ""
        )
        return result

    def add_to(self, shortcut: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.ops.mkldnn._convolution_pointwise_.binary(
            shortcut, maps, self._weight, self._bias, *self._geometry, "add", 1.0, "relu", [], ""
        )
        return result


class _CudnnConvolution:
    """On a GPU."""

    def __init__(self, convolution: nn.Conv2d, _: list[int]) -> None:
        self._convolution, self._weight, self._bias = convolution, convolution.weight, convolution.bias
        self._geometry: Any = (convolution.stride, convolution.padding, convolution.dilation, convolution.groups)

    def __call__(self, maps: torch.Tensor, *, relu: bool) -> torch.Tensor:
        if not relu:  # cuDNN's own has a bias already
            result: torch.Tensor = self._convolution(maps)
            return result
        return torch.cudnn_convolution_relu(maps, self._weight, self._bias, *self._geometry)

    def add_to(self, shortcut: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        return torch.cudnn_convolution_add_relu(maps, self._weight, shortcut, 1.0, self._bias, *self._geometry)


class _Block:
    """One bottleneck: 1×1, 3×3, 1×1 and the shortcut around them."""

    def __init__(self, block: Any, fuse: Callable[[nn.Conv2d], _Convolution]) -> None:
        self._reduce, self._middle, self._expand = fuse(block.conv1), fuse(block.conv2), fuse(block.conv3)
        self._downsample = None if block.downsample is None else fuse(block.downsample)

    def __call__(self, maps: torch.Tensor) -> torch.Tensor:
        inner = self._middle(self._reduce(maps, relu=True), relu=True)
        shortcut = maps if self._downsample is None else self._downsample(maps, relu=False)
        return self._expand.add_to(shortcut, inner)


def _input_shapes(trunk: nn.Sequential, input_shape: tuple[int, int, int, int]) -> dict[nn.Module, list[int]]:
    """Return the shape that each convolution will be given, from a pass over one black picture."""
    batch, *picture = input_shape
    shapes: dict[nn.Module, list[int]] = {}

    def record(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        shapes[module] = [batch, *inputs[0].shape[1:]]

    convolutions = [module for module in trunk.modules() if isinstance(module, nn.Conv2d)]
    hooks = [module.register_forward_pre_hook(record) for module in convolutions]
    weight = convolutions[0].weight
    trunk(torch.zeros(1, *picture, dtype=weight.dtype, device=weight.device).to(memory_format=torch.channels_last))
    for hook in hooks:
        hook.remove()
    return shapes
