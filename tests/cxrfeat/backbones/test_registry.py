"""Tests of the backbone registry: lookup by name, and the layouts of the registered networks."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from cxrfeat.backbones.backbone import Backbone
from cxrfeat.backbones.registry import BACKBONES, _find, get_backbone
from cxrfeat.errors import ConfigError

RESNET50, RESNET50_V1 = BACKBONES["resnet50"], BACKBONES["resnet50-v1"]


def test_an_unknown_backbone_is_refused_with_the_known_ones() -> None:
    """The message names the nearest and all registered backbones, so that a typing error is easy to fix."""
    with pytest.raises(ConfigError, match=r"'densenet12', did you mean densenet121\?.*timm:MODEL.* resnet50, "):
        get_backbone("densenet12")


@pytest.mark.parametrize(
    ("backbone", "conv1", "conv2"),
    [(RESNET50, (1, 1), (2, 2)), (RESNET50_V1, (2, 2), (1, 1))],
    ids=lambda x: str(x)[:30],
)
def test_the_stride_of_a_stage_is_where_the_layout_has_it(
    backbone: Backbone, conv1: tuple[int, int], conv2: tuple[int, int]
) -> None:
    """resnet50 has the stride in the 3×3, resnet50-v1 in the first 1×1; the first stage and other blocks have none."""
    assert backbone.skeleton is not None
    with torch.device("meta"):
        network: Any = backbone.skeleton()
    for stage in (network.layer2, network.layer3, network.layer4):
        first: Any = stage[0]
        assert (first.conv1.stride, first.conv2.stride) == (conv1, conv2)
    rest = [*network.layer1, *network.layer2[1:], *network.layer3[1:], *network.layer4[1:]]
    assert {convolution.stride for block in rest for convolution in (block.conv1, block.conv2)} == {(1, 1)}


def test_every_row_is_true() -> None:
    """Names are unique, and a network's own input, size of embedding and number of parameters are those of its row."""
    for name, backbone in BACKBONES.items():
        assert backbone.name == name
        assert backbone.licence
        trunk = backbone.trunk(backbone.build(backbone.input.size))
        assert sum(parameter.numel() for parameter in trunk.parameters()) == backbone.parameters, name


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("vit_b_16", 230, r"input size 230 for backbone vit_b_16; expected at least 32 pixels, in multiples of 16"),
        ("inception_v3", 64, r"input size 64 for backbone inception_v3; expected at least 75 pixels$"),
        ("resnet50", 31, r"input size 31; expected 32 to 2048 pixels"),
        ("resnet50", 4096, r"input size 4096; expected 32 to 2048 pixels"),
    ],
)
def test_impossible_input_sizes_are_refused(name: str, size: int, message: str) -> None:
    """The message says which sizes the backbone accepts."""
    with pytest.raises(ConfigError, match=message):
        get_backbone(name).with_input(size)


@pytest.mark.parametrize(("prefix", "module"), [("timm", "timm"), ("xrv", "torchxrayvision.models")])
def test_a_missing_package_is_named_with_its_extra(prefix: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package the message says how to install it."""
    _find.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"pip install 'cxrfeat\[{prefix}\]'"):
        get_backbone(f"{prefix}:some-model")
    _find.cache_clear()
