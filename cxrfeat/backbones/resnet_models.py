"""Backbones built on our ResNet: ResNet50 in both layouts, and with a second tap."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cxrfeat.backbones.backbone import Backbone
from cxrfeat.backbones.resnet import ResNet, resnet50_v1
from cxrfeat.backbones.resnet_fused import optimise
from cxrfeat.backbones.torchvision_models import TorchvisionWeights, check_pixel_scale, resnet_trunk


class _TwoTaps(nn.Module):
    """Means of the last two stages, (N, 3072); networks that were trained on photographs keep texture in layer3."""

    def __init__(self, network: ResNet) -> None:
        super().__init__()
        self.stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
        self.layers = nn.Sequential(network.layer1, network.layer2, network.layer3)
        self.layer4 = network.layer4

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Turn (N, 3, H, W) standardised images into (N, 1024 + 2048) float32."""
        middle = self.layers(self.stem(images))  # (N, 1024, H / 16, W / 16)
        last = self.layer4(middle)  # (N, 2048, H / 32, W / 32)
        return torch.cat([maps.float().mean(dim=(2, 3)) for maps in (middle, last)], dim=1)


def _check_layout(name: str, state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Reject weights from Keras or Caffe in torchvision's layout, where they load but give wrong features.

    Both layouts have the same shapes, and only the scale of the first layer tells them apart.
    """
    check_pixel_scale(
        name,
        state,
        path,
        "Their stride is in the 1×1 convolution, so features would be wrong in torchvision's layout. Use --backbone "
        + name.replace("resnet50", "resnet50-v1"),
    )


_SHARED: dict[str, Any] = {"licence": "BSD-3-Clause", "parameters": 23_508_032}

ROWS = (
    Backbone(
        "resnet50",
        2048,
        lambda _: ResNet().init_weights(),
        resnet_trunk,
        published=TorchvisionWeights("resnet50"),
        skeleton=ResNet,
        check_state=_check_layout,
        optimise=optimise,
        **_SHARED,
    ),
    Backbone(
        "resnet50-v1",
        2048,
        lambda _: resnet50_v1().init_weights(),
        resnet_trunk,
        skeleton=resnet50_v1,
        optimise=optimise,
        **_SHARED,
    ),
    Backbone(
        "resnet50-l34",
        3072,
        lambda _: ResNet().init_weights(),
        _TwoTaps,
        pooling="means of layer3 and layer4",
        published=TorchvisionWeights("resnet50"),
        skeleton=ResNet,
        check_state=_check_layout,
        **_SHARED,
    ),
    Backbone(
        "resnet50-v1-l34",
        3072,
        lambda _: resnet50_v1().init_weights(),
        _TwoTaps,
        pooling="means of layer3 and layer4",
        skeleton=resnet50_v1,
        **_SHARED,
    ),
)
