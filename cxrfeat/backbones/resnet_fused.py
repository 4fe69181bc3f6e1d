"""Trunk of a bottleneck ResNet with each convolution, addition and ReLU fused into one oneDNN or cuDNN primitive.

A fused primitive adds in fp32 and rounds once, so it is also more accurate in bf16. The oneDNN operators are those that
``torch.compile`` uses on a CPU (torch/_inductor/fx_passes/mkldnn_fusion.py), the cuDNN operators those of frozen
TorchScript networks. Calling them directly saves every worker minutes of compilation. Speedups: benchmarks/LOG.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cxrfeat.backbones.backbone import Runner, RunnerSettings, Trunk
from cxrfeat.backbones.gray_stem import count_planes, fold_standardisation, to_planes
from cxrfeat.backbones.resnet import ResNet

_AMPERE = (8, 0)
"""CUDA compute capability of the Ampere generation."""


def can_fuse(device: torch.device) -> bool:
    """Return True if the device supports the fused operators: a CPU with oneDNN, or a GPU from Ampere on."""
    if device.type == "cpu":
        return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    cudnn = bool(torch.backends.cudnn.is_available())  # type: ignore[no-untyped-call]
    return cudnn and torch.cuda.get_device_capability(device) >= _AMPERE


def optimise(network: ResNet, settings: RunnerSettings) -> Runner:
    """Return a runner that takes gray levels without standardising them, with fused operators where they exist.

    The network is modified in place and must not be used afterwards.
    """
    layers: list[Any] = list(fold_batchnorm(network))
    trunk = nn.Sequential(fold_standardisation(layers[0], settings.dtype, settings.input), *layers[1:])
    trunk = trunk.to(settings.device, settings.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    shape = (settings.batch_size, count_planes(settings.dtype), settings.input.size, settings.input.size)
    return FoldedResNet(fuse_trunk(trunk, shape) if can_fuse(settings.device) else trunk, settings)


class FoldedResNet:
    """A ResNet whose first convolution takes gray planes; see :class:`.backbone.Runner`."""

    def __init__(self, trunk: Trunk, settings: RunnerSettings) -> None:
        """Use a trunk from (N, planes, H, W) gray planes to (N, dim, h, w) maps."""
        self.batch_size = settings.batch_size
        self.trunk = trunk
        self._dtype = settings.dtype

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Turn (batch_size, H, W) uint8 into (batch_size, dim, h, w) float32."""
        return self.trunk(to_planes(batch, self._dtype)).float()


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


@torch.inference_mode()
def fuse_trunk(trunk: nn.Sequential, input_shape: tuple[int, int, int, int]) -> Trunk:
    """Return a function that computes the trunk with fused operators.

    Args:
        trunk: result of :func:`fold_batchnorm`, on its device, in its final dtype.
        input_shape: (N, planes, H, W) that the weight layout on a CPU is optimised for; other shapes work, but slower.
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
        maps: torch.Tensor = pool(first(planes, relu=True))  # (N, 64, H / 4, W / 4)
        for block in blocks:
            maps = block(maps)
        return maps  # (N, dim, H / 32, W / 32)

    return run


class _Convolution(Protocol):
    """Interface of a convolution fused with the operations that follow it."""

    def __call__(self, maps: torch.Tensor, *, relu: bool) -> torch.Tensor:
        """Return the convolution of the maps, followed by a ReLU if ``relu`` is true."""
        ...

    def add_to(self, shortcut: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        """Return ReLU(shortcut + convolution of maps); the result may overwrite the shortcut."""
        ...


class _OneDnnConvolution:
    """Fused convolution on a CPU with oneDNN and packed weights."""

    def __init__(self, convolution: nn.Conv2d, input_shape: list[int]) -> None:
        self._bias = convolution.bias
        self._geometry = (convolution.padding, convolution.stride, convolution.dilation, convolution.groups)
        self._weight = torch.ops.mkldnn._reorder_convolution_weight(convolution.weight, *self._geometry, input_shape)

    def __call__(self, maps: torch.Tensor, *, relu: bool) -> torch.Tensor:
        activation = "relu" if relu else "none"
        result: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
            maps, self._weight, self._bias, *self._geometry, activation, [], ""
        )
        return result

    def add_to(self, shortcut: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.ops.mkldnn._convolution_pointwise_.binary(
            shortcut, maps, self._weight, self._bias, *self._geometry, "add", 1.0, "relu", [], ""
        )
        return result


class _CudnnConvolution:
    """Fused convolution on a GPU with cuDNN."""

    def __init__(self, convolution: nn.Conv2d, _: list[int]) -> None:
        self._convolution, self._weight, self._bias = convolution, convolution.weight, convolution.bias
        self._geometry: Any = (convolution.stride, convolution.padding, convolution.dilation, convolution.groups)

    def __call__(self, maps: torch.Tensor, *, relu: bool) -> torch.Tensor:
        if not relu:  # the plain convolution already includes the bias
            result: torch.Tensor = self._convolution(maps)
            return result
        return torch.cudnn_convolution_relu(maps, self._weight, self._bias, *self._geometry)

    def add_to(self, shortcut: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        return torch.cudnn_convolution_add_relu(maps, self._weight, shortcut, 1.0, self._bias, *self._geometry)


class _Block:
    """Bottleneck of fused 1×1, 3×3 and 1×1 convolutions with a shortcut."""

    def __init__(self, block: Any, fuse: Callable[[nn.Conv2d], _Convolution]) -> None:
        self._reduce, self._middle, self._expand = fuse(block.conv1), fuse(block.conv2), fuse(block.conv3)
        self._downsample = None if block.downsample is None else fuse(block.downsample)

    def __call__(self, maps: torch.Tensor) -> torch.Tensor:
        residual = self._middle(self._reduce(maps, relu=True), relu=True)  # (N, width, h / stride, w / stride)
        shortcut = maps if self._downsample is None else self._downsample(maps, relu=False)
        return self._expand.add_to(shortcut, residual)  # (N, out_channels, h / stride, w / stride)


def _input_shapes(trunk: nn.Sequential, input_shape: tuple[int, int, int, int]) -> dict[nn.Module, list[int]]:
    """Return the input shape of each convolution, recorded in a forward pass over one image of zeros."""
    batch, *image_shape = input_shape
    shapes: dict[nn.Module, list[int]] = {}

    def record(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        shapes[module] = [batch, *inputs[0].shape[1:]]

    convolutions = [module for module in trunk.modules() if isinstance(module, nn.Conv2d)]
    hooks = [module.register_forward_pre_hook(record) for module in convolutions]
    weight = convolutions[0].weight
    trunk(torch.zeros(1, *image_shape, dtype=weight.dtype, device=weight.device).to(memory_format=torch.channels_last))
    for hook in hooks:
        hook.remove()
    return shapes
