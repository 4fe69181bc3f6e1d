"""ResNet with bottlenecks, identical to torchvision's: the same module names, shapes and random weights.

Importing torchvision takes as long as importing torch itself, because it also loads torch's compiler; the driver and
every Python worker would pay for it (benchmarks/LOG.md). ``tests/cxrfeat/backbones/test_resnet.py`` compares the two.

Source: He et al., Deep Residual Learning for Image Recognition, CVPR 2016; torchvision/models/resnet.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

_EXPANSION = 4
"""Ratio of a bottleneck's output channels to its width."""


class Bottleneck(nn.Module):
    """Residual block of 1×1, 3×3 and 1×1 convolutions; the 3×3 convolution has the stride."""

    def __init__(
        self, in_channels: int, width: int, out_channels: int, stride: int, downsample: nn.Sequential | None
    ) -> None:
        """Create the modules; ``downsample`` is the projection of the shortcut, or None for the identity."""
        super().__init__()
        self.conv1 = _convolution(in_channels, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _convolution(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _convolution(width, out_channels, 1)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Turn (N, in_channels, h, w) maps into (N, out_channels, h / stride, w / stride)."""
        residual = self.relu(self.bn1(self.conv1(maps)))  # (N, width, h, w)
        residual = self.relu(self.bn2(self.conv2(residual)))  # (N, width, h / stride, w / stride)
        residual = self.bn3(self.conv3(residual))  # (N, out_channels, h / stride, w / stride)
        shortcut = maps if self.downsample is None else self.downsample(maps)
        result: torch.Tensor = self.relu(residual + shortcut)
        return result


class ResNet(nn.Module):
    """ResNet: stem, four stages of bottlenecks, global average pooling, classifier."""

    def __init__(self, blocks: Sequence[int] = (3, 4, 6, 3), width_per_group: int = 64) -> None:
        """Create the network with uninitialised weights; the default is ResNet50.

        Args:
            blocks: number of bottlenecks in each stage.
            width_per_group: width of the bottlenecks in the first stage; its output has 256 channels in any case.
        """
        super().__init__()
        self.conv1 = _convolution(3, 64, 7, 2)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        in_channels = 64
        stages = []
        for stage, count in enumerate(blocks):
            out_channels, width = 64 * _EXPANSION << stage, width_per_group << stage
            stages.append(_stage(in_channels, width, out_channels, count, stride=1 if stage == 0 else 2))
            in_channels = out_channels
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc: nn.Module = nn.Linear(in_channels, 1000)

    def init_weights(self) -> ResNet:
        """Initialise a new network with the random weights of torchvision, and return it.

        The constructor does not do this: on the meta device, used before loading weights, it imports torch's compiler.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Turn (N, 3, H, W) standardised images into (N, 1000) logits, or into embeddings if ``fc`` is an identity."""
        maps = self.maxpool(self.relu(self.bn1(self.conv1(images))))  # (N, 64, H / 4, W / 4)
        maps = self.layer4(self.layer3(self.layer2(self.layer1(maps))))  # (N, 2048, H / 32, W / 32)
        result: torch.Tensor = self.fc(self.avgpool(maps).flatten(1))
        return result


def resnet50_v1() -> ResNet:
    """Build ResNet50 in the original layout: a stage's stride is in its first 1×1 convolution (torchvision: 3×3).

    Source: He et al., Deep Residual Learning, CVPR 2016; Keras' and Caffe's ResNet50.
    """
    network = ResNet()
    for stage in (network.layer2, network.layer3, network.layer4):
        first: Any = stage[0]
        first.conv1.stride, first.conv2.stride = (2, 2), (1, 1)
    return network


def _stage(in_channels: int, width: int, out_channels: int, count: int, *, stride: int) -> nn.Sequential:
    """Create a stage; its first bottleneck has the stride and a convolution in the shortcut."""
    downsample = nn.Sequential(_convolution(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))
    blocks = [Bottleneck(in_channels, width, out_channels, stride, downsample)]
    blocks += [Bottleneck(out_channels, width, out_channels, 1, None) for _ in range(count - 1)]
    return nn.Sequential(*blocks)


def _convolution(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
