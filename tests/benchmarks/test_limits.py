"""The bounds of a network: operations and memory traffic, counted."""

from __future__ import annotations

import pytest
from torch import nn

from benchmarks import limits
from cxrfeat.backbones.encoder import EncoderSpec, fold_batchnorm
from cxrfeat.backbones.registry import get_backbone
from cxrfeat.backbones.weights import Weights, load_network
from cxrfeat.device import Precision
from cxrfeat.images.preprocess import SIDE


def test_operations_of_resnet50_are_the_published_ones() -> None:
    """4.09 G multiply-adds with the classifier's 2 M left out. Source: torchvision, ResNet50_Weights' GFLOPS."""
    trunk = fold_batchnorm(load_network(get_backbone("resnet50"), Weights(None, "random-seed0")))
    assert limits.count_flops(trunk) / 2e9 == pytest.approx(4.087, abs=0.005)


def test_traffic_counts_inputs_outputs_and_shared_weights() -> None:
    """One layer by hand: 3 planes in, 2 half-size planes out, 56 weights for 8 films."""
    layer = nn.Sequential(nn.Conv2d(3, 2, 3, stride=2, padding=1))
    expected = 3 * SIDE**2 + 2 * (SIDE // 2) ** 2 + (2 * 3 * 9 + 2) / 8
    assert limits.count_elements(layer, 8) == pytest.approx(expected)


def test_bounds_are_work_by_rate() -> None:
    """Milliseconds are operations by rate, and bytes by rate."""
    bound = limits.Bound(gflop=8.0, mib=102.4, gflops=200.0, gib_per_s=10.0)
    assert bound.flop_ms == pytest.approx(40.0)
    assert bound.memory_ms == pytest.approx(10.0)


@pytest.mark.slow
def test_rates_are_measured_here() -> None:
    """A real device gives finite bounds, in the precision that was asked for."""
    spec = EncoderSpec("resnet50", Weights(None, "random-seed0"), Precision.FP32)
    bound = limits.of_network(spec, 8, "cpu")
    assert 0 < bound.flop_ms < 10_000
    assert 0 < bound.memory_ms < 10_000
