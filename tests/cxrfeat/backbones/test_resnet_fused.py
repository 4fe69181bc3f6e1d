"""Tests of the fused trunk: it computes the same as the plain trunk."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cxrfeat.backbones import resnet_fused
from cxrfeat.backbones.encoder import EncoderSpec, FrozenEncoder
from cxrfeat.backbones.resnet import ResNet
from cxrfeat.backbones.resnet_fused import FoldedResNet, can_fuse, fold_batchnorm, fuse_trunk
from cxrfeat.backbones.weights import Weights
from cxrfeat.device import Precision, has_native_bf16
from tests.cxrfeat.backbones.test_encoder import IMAGES, cosines

pytestmark = pytest.mark.skipif(not can_fuse(torch.device("cpu")), reason="this torch was built without oneDNN")

PRECISIONS = [
    pytest.param(torch.float32, 1e-5, id="fp32"),
    pytest.param(
        torch.bfloat16,
        0.05,
        id="bf16",
        marks=pytest.mark.skipif(not has_native_bf16(), reason="this CPU computes bf16 by emulation"),
    ),
]


def small_trunk(dtype: torch.dtype) -> nn.Sequential:
    """Build a trunk with two blocks per stage: shortcuts with and without a convolution."""
    torch.manual_seed(3)
    network = ResNet([2, 2, 2, 2], width_per_group=8).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features) / 4
            module.running_var = torch.rand(module.num_features) + 0.5
    return fold_batchnorm(network).to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("images", [1, 4, 7])
def test_the_same_maps_as_the_plain_trunk(dtype: torch.dtype, tolerance: float, images: int) -> None:
    """The maps agree for the optimised batch size and for others; the input is not modified."""
    trunk = small_trunk(dtype)
    fused = fuse_trunk(trunk, (4, 3, 64, 64))
    torch.manual_seed(images)
    pixels = torch.randn(images, 3, 64, 64).to(dtype, memory_format=torch.channels_last)
    before = pixels.clone()
    with torch.inference_mode():
        expected, found = trunk(pixels), fused(pixels)
    assert found.shape == expected.shape
    assert found.dtype == dtype
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())
    assert torch.equal(pixels, before)
    with torch.inference_mode():
        assert torch.equal(fused(pixels), found)


@pytest.mark.parametrize("backbone", ["resnet50", "resnet50-v1"])
def test_both_layouts_embed_as_without_it(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both strides give the plain trunk's embeddings; a device without fusion uses the plain trunk."""
    spec = EncoderSpec(backbone, Weights(None, "random-seed0"), Precision.FP32, 2)
    fused = FrozenEncoder(spec).embed(IMAGES)
    monkeypatch.setattr(resnet_fused, "can_fuse", lambda _: False)
    plain = FrozenEncoder(spec)
    assert isinstance(plain._runner, FoldedResNet)
    assert isinstance(plain._runner.trunk, nn.Sequential)
    assert cosines(fused, plain.embed(IMAGES)).min() >= 0.999999


@pytest.mark.parametrize(("capability", "fuses"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_gpus_from_ampere_on(capability: tuple[int, int], fuses: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Older GPUs have no bf16, and cuDNN's fused operators are untested there."""
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert can_fuse(torch.device("cuda", 0)) is fuses
