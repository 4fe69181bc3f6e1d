"""Tests of the backbone registry: lookup by name, and the layouts of the registered networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cxrfeat.backbones.registry import BACKBONES, Backbone, get_backbone
from cxrfeat.errors import ConfigError

RESNET50, RESNET50_V1 = BACKBONES["resnet50"], BACKBONES["resnet50-v1"]


def test_an_unknown_backbone_is_refused_with_the_known_ones() -> None:
    """The message lists the registered backbones, so that a typing error in --backbone is easy to fix."""
    with pytest.raises(ConfigError, match=r"'resnet51'.*known backbones: resnet50, resnet50-v1$"):
        get_backbone("resnet51")


@pytest.mark.parametrize(
    ("backbone", "conv1", "conv2"),
    [(RESNET50, (1, 1), (2, 2)), (RESNET50_V1, (2, 2), (1, 1))],
    ids=lambda x: str(x)[:30],
)
def test_the_stride_of_a_stage_is_where_the_layout_has_it(
    backbone: Backbone, conv1: tuple[int, int], conv2: tuple[int, int]
) -> None:
    """resnet50 has the stride in the 3×3, resnet50-v1 in the first 1×1; the first stage and other blocks have none."""
    with torch.device("meta"):
        network = backbone.build()
    for stage in (network.layer2, network.layer3, network.layer4):
        first: Any = stage[0]
        assert (first.conv1.stride, first.conv2.stride) == (conv1, conv2)
    rest = [*network.layer1, *network.layer2[1:], *network.layer3[1:], *network.layer4[1:]]
    assert {convolution.stride for block in rest for convolution in (block.conv1, block.conv2)} == {(1, 1)}
