"""A bottleneck ResNet's trunk on a CPU, with each convolution, its addition and its ReLU in one oneDNN primitive.

These are the operators that ``torch.compile`` lowers to on a CPU (torch/_inductor/fx_passes/mkldnn_fusion.py); called by
hand they need no compiler and no minutes of compilation in every worker. Weights are laid out once for the
shapes that they will meet. Worth about a tenth of the network's time; see benchmarks/LOG.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torchvision.models.resnet import Bottleneck

Trunk = Callable[[torch.Tensor], torch.Tensor]
"""(N, 3, H, W) pixels → (N, dim, h, w) feature maps, in the network's dtype, channels last."""


def can_fuse(device: torch.device) -> bool:
    """Say whether a device has these operators: a CPU, with a torch that was built with oneDNN."""
    return device.type == "cpu" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


@torch.inference_mode()
def fuse_trunk(trunk: nn.Sequential, input_shape: tuple[int, int, int, int]) -> Trunk:
    """Return a function that computes what the trunk does.

    Args:
        trunk: of :func:`cxrfeat.encoder.fold_batchnorm`, on a CPU, in its final dtype.
        input_shape: (N, 3, H, W) for which weights are laid out; others are computed too, but slower.
    """
    layers: list[Any] = list(trunk)
    stem, _, pool, *stages = layers
    shapes = _input_shapes(trunk, input_shape)
    first = _Convolution(stem, shapes[stem])
    blocks = [_Block(block, shapes) for stage in stages for block in stage]

    def run(pixels: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = pool(first(pixels, relu=True))
        for block in blocks:
            maps = block(maps)
        return maps

    return run


class _Convolution:
    """A convolution whose weights are packed."""

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
        """Return ReLU(shortcut + convolution of maps), in the shortcut's memory."""
        result: torch.Tensor = torch.ops.mkldnn._convolution_pointwise_.binary(
            shortcut, maps, self._weight, self._bias, *self._geometry, "add", 1.0, "relu", [], ""
        )
        return result


class _Block:
    """One bottleneck: 1×1, 3×3, 1×1 and the shortcut around them."""

    def __init__(self, block: Bottleneck, shapes: dict[nn.Module, list[int]]) -> None:
        self._reduce, self._middle, self._expand = (
            _Convolution(convolution, shapes[convolution]) for convolution in (block.conv1, block.conv2, block.conv3)
        )
        downsample = block.downsample
        self._downsample = None if downsample is None else _Convolution(downsample, shapes[downsample])

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
    trunk(torch.zeros(1, *picture, dtype=convolutions[0].weight.dtype).to(memory_format=torch.channels_last))
    for hook in hooks:
        hook.remove()
    return shapes
