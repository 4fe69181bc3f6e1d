"""ResNet with bottlenecks, module for module torchvision's: the same names, shapes and random weights.

It is not imported from there because that takes as long as importing torch itself (it brings torch's compiler along), once in
the driver and once in every Python worker; benchmarks/LOG.md has the figures. ``tests/cxrfeat/backbones/test_resnet.py`` holds the two equal.

Source: He et al., Deep Residual Learning for Image Recognition, CVPR 2016; torchvision/models/resnet.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

_EXPANSION = 4
"""Channels that leave a bottleneck for each one of its width."""


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions with a shortcut around them; the stride is in the 3×3 one."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int, downsample: nn.Sequential | None) -> None:
        """Make the modules, not trained; ``downsample`` is the shortcut's own convolution."""
        super().__init__()
        self.conv1 = _convolution(inputs, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _convolution(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _convolution(width, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Turn (N, inputs, h, w) maps into (N, outputs, h / stride, w / stride)."""
        inner = self.relu(self.bn1(self.conv1(maps)))
        inner = self.relu(self.bn2(self.conv2(inner)))
        inner = self.bn3(self.conv3(inner))
        shortcut = maps if self.downsample is None else self.downsample(maps)
        result: torch.Tensor = self.relu(inner + shortcut)
        return result


class ResNet(nn.Module):
    """Stem, four stages of bottlenecks, mean, classifier."""

    def __init__(self, blocks: Sequence[int] = (3, 4, 6, 3), width_per_group: int = 64) -> None:
        """Make the network, its weights not set; the default is ResNet50.

        Args:
            blocks: bottlenecks of each stage.
            width_per_group: width of the first stage's bottlenecks; its maps have 256 channels whatever it is.
        """
        super().__init__()
        self.conv1 = _convolution(3, 64, 7, 2)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        inputs = 64
        stages = []
        for stage, count in enumerate(blocks):
            outputs, width = 64 * _EXPANSION << stage, width_per_group << stage
            stages.append(_stage(inputs, width, outputs, count, stride=1 if stage == 0 else 2))
            inputs = outputs
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc: nn.Module = nn.Linear(inputs, 1000)

    def draw_weights(self) -> ResNet:
        """Draw torchvision's random weights, once, right after the network was made; return the network.

        Not done when it is made: on the meta device, where stored weights are waited for, this draw imports torch's compiler.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        return self

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Turn (N, 3, H, W) standardised pictures into (N, 1000) logits, or embeddings where ``fc`` is an identity."""
        maps = self.maxpool(self.relu(self.bn1(self.conv1(pictures))))
        maps = self.layer4(self.layer3(self.layer2(self.layer1(maps))))
        result: torch.Tensor = self.fc(self.avgpool(maps).flatten(1))
        return result


def resnet50_v1() -> ResNet:
    """Build the original layout, the stride of a stage in its first 1×1 convolution (torchvision: in the 3×3).

    Source: He et al., Deep Residual Learning, CVPR 2016; Keras' and Caffe's ResNet50.
    """
    network = ResNet()
    for stage in (network.layer2, network.layer3, network.layer4):
        first: Any = stage[0]
        first.conv1.stride, first.conv2.stride = (2, 2), (1, 1)
    return network


def _stage(inputs: int, width: int, outputs: int, count: int, *, stride: int) -> nn.Sequential:
    """Make a stage; its first bottleneck has the stride, and a convolution in its shortcut."""
    downsample = nn.Sequential(_convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
    blocks = [Bottleneck(inputs, width, outputs, stride, downsample)]
    blocks += [Bottleneck(outputs, width, outputs, 1, None) for _ in range(count - 1)]
    return nn.Sequential(*blocks)


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
