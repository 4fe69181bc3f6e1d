"""Tests of the encoder: the published network's features, and the same bits in every batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torchvision import models, transforms

from cxrfeat.backbones.encoder import EncoderSpec, FrozenEncoder
from cxrfeat.backbones.registry import BACKBONES, get_backbone
from cxrfeat.backbones.resnet import ResNet
from cxrfeat.backbones.resnet_fused import FoldedResNet, fold_batchnorm
from cxrfeat.backbones.weights import Weights, find_weights, load_network
from cxrfeat.device import Precision, has_native_bf16
from cxrfeat.errors import WeightsError
from cxrfeat.images.decode import decode_image
from cxrfeat.images.preprocess import to_model_input
from tests import fakes

Embeddings = NDArray[np.float32]

RANDOM = Weights(None, "random-seed0")
BATCH = 3
IMAGES = np.stack(
    [
        fakes.gray_image(224, 224),
        255 - fakes.gray_image(224, 224, seed=1),
        fakes.gray_image(224, 224, seed=2) // 4,
        np.kron(fakes.gray_image(56, 56, seed=3), np.ones((4, 4), np.uint8)),
    ]
)
"""Bright on the right, bright on the left, dark, coarse: their features differ."""

needs_bf16 = pytest.mark.skipif(not has_native_bf16(), reason="this CPU computes bf16 by emulation")


def reference_network(backbone: str, state: dict[str, torch.Tensor]) -> models.ResNet:
    """Return torchvision's own network, not folded, with the strides of the layout set here."""
    network = models.resnet50()
    if backbone == "resnet50-v1":
        for block in (network.layer2[0], network.layer3[0], network.layer4[0]):
            block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)
    fitted = network.load_state_dict(state, strict=False)
    assert set(fitted.missing_keys) <= {"fc.weight", "fc.bias"} | {k for k in network.state_dict() if "num_b" in k}
    network.fc = nn.Identity()
    network.eval()
    return network


@torch.inference_mode()
def reference_embeddings(network: nn.Module, images: list[Image.Image]) -> Embeddings:
    """Embed PIL images one by one, as in torchvision's documentation."""
    pipeline = transforms.Compose(
        [
            transforms.Resize((224, 224)),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    made = torch.cat([network(pipeline(image.convert("RGB")).unsqueeze(0)) for image in images])
    embeddings: Embeddings = made.numpy()
    return embeddings


def cosines(one: Embeddings, other: Embeddings) -> Embeddings:
    products: Embeddings = (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    return products


def build(backbone: str, path: Path, precision: Precision = Precision.FP32, batch_size: int = BATCH) -> FrozenEncoder:
    return FrozenEncoder(EncoderSpec(backbone, Weights(path, "0" * 64), precision, batch_size))


def build_small(precision: Precision = Precision.FP32, batch_size: int | None = BATCH) -> FrozenEncoder:
    return FrozenEncoder(EncoderSpec("small", RANDOM, precision, batch_size))


@pytest.fixture(scope="module")
def resnet50(trained_file: Path) -> FrozenEncoder:
    return build("resnet50", trained_file)


@pytest.fixture(scope="module")
def embeddings(resnet50: FrozenEncoder) -> Embeddings:
    """Return the embeddings of IMAGES: a full batch and a partial one."""
    return resnet50.embed(IMAGES)


@pytest.fixture(scope="module")
def small() -> Iterator[FrozenEncoder]:
    """Return a small fp32 encoder with batches of 3, and keep its backbone in the registry."""
    BACKBONES["small"] = fakes.SMALL
    yield build_small()
    del BACKBONES["small"]


@pytest.mark.parametrize("backbone", ["resnet50", "resnet50-v1"])
def test_the_folded_network_equals_torchvisions(
    backbone: str, trained: dict[str, torch.Tensor], trained_file: Path
) -> None:
    """Folding, channels_last, standardisation and padding change no feature beyond rounding, in both layouts."""
    images = [Image.fromarray(image) for image in IMAGES[:3]]
    expected = reference_embeddings(reference_network(backbone, trained), images)
    made = build(backbone, trained_file).embed(IMAGES[:3])
    assert made.shape == (3, 2048)
    assert made.dtype == np.float32
    assert cosines(expected[:2], expected[1:]).max() < 0.95, "the images must differ, or nothing is compared"
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-4)


@needs_bf16
def test_bf16_is_close_to_fp32(embeddings: Embeddings, trained_file: Path) -> None:
    """Embeddings in bf16 have the direction of those in fp32."""
    made = build("resnet50", trained_file, Precision.BF16).embed(IMAGES)
    assert made.dtype == np.float32
    assert cosines(made, embeddings).min() >= 0.999
    assert not np.array_equal(made, embeddings)


def test_nothing_can_change_after_folding() -> None:
    """After folding, no BatchNorm, buffer or gradient remains; all convolutions are in eval mode."""
    network = load_network(fakes.SMALL, RANDOM)
    assert isinstance(network, ResNet)
    trunk = fold_batchnorm(network)
    assert [module for module in trunk.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)] == []
    assert list(trunk.buffers()) == []
    assert not any(parameter.requires_grad for parameter in trunk.parameters())
    assert not any(module.training for module in trunk.modules() if isinstance(module, nn.Conv2d))


def test_the_same_input_gives_the_same_bits(resnet50: FrozenEncoder, embeddings: Embeddings) -> None:
    """A second run gives the same bits, alone or among others, at the start or the end of a batch."""
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2], [1, 1, 1]):
        np.testing.assert_array_equal(resnet50.embed(IMAGES[order]), embeddings[order])


@pytest.fixture(scope="module")
def alone(small: FrozenEncoder) -> Embeddings:
    """Return the embeddings of IMAGES, each embedded without any neighbour."""
    return np.concatenate([small.embed(IMAGES[index : index + 1]) for index in range(len(IMAGES))])


@settings(max_examples=15)
@given(st.lists(st.integers(0, len(IMAGES) - 1), max_size=5))
def test_neighbours_never_matter(small: FrozenEncoder, alone: Embeddings, order: list[int]) -> None:
    """An image's embedding has the same bits for any choice, repetition, order and batching of images."""
    np.testing.assert_array_equal(small.embed(IMAGES[order]), alone[order])


@needs_bf16
@pytest.mark.usefixtures("small")
def test_neighbours_never_matter_in_bf16() -> None:
    """The same holds in bf16, where rounding is coarse."""
    encoder = build_small(Precision.BF16)
    alone = np.concatenate([encoder.embed(IMAGES[index : index + 1]) for index in range(len(IMAGES))])
    np.testing.assert_array_equal(encoder.embed(IMAGES), alone)
    np.testing.assert_array_equal(encoder.embed(IMAGES[::-1]), alone[::-1])


@pytest.mark.usefixtures("small")
def test_the_batch_size_changes_rounding_alone(small: FrozenEncoder) -> None:
    """Batches of any size give the same embeddings within 1e-4 of their scale."""
    expected = small.embed(IMAGES)
    for size in (1, 2, 5, 8):
        made = build_small(batch_size=size).embed(IMAGES)
        np.testing.assert_allclose(made, expected, atol=1e-4 * float(np.abs(expected).max()))


def test_embeddings_are_the_means_of_the_feature_maps(small: FrozenEncoder) -> None:
    """Embeddings have the same bits with and without maps, in full and partial batches; padding gives no maps."""
    embeddings, maps = small.embed_with_maps(IMAGES)
    assert maps.shape == (4, 2048, 7, 7)
    assert maps.dtype == np.float32
    np.testing.assert_array_equal(embeddings, small.embed(IMAGES))
    np.testing.assert_allclose(maps.mean(axis=(2, 3)), embeddings, rtol=1e-5, atol=1e-6)


def test_every_batch_is_full_for_the_network(small: FrozenEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A partial batch is padded and the padding's embeddings are dropped; no images give no embeddings."""
    seen: list[tuple[int, ...]] = []
    runner = small._runner
    assert isinstance(runner, FoldedResNet)
    trunk = runner.trunk

    def watch(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(pixels.shape))
        return trunk(pixels)

    monkeypatch.setattr(runner, "trunk", watch)
    assert small.embed(IMAGES).shape == (4, 2048)
    assert seen == [(BATCH, 2, 224, 224)] * 2
    assert small.embed(IMAGES[:0]).shape == (0, 2048)


@pytest.fixture(scope="module")
def real_weights(shared: Path) -> Path:
    return next((shared / "weights").glob("resnet50_v1*.pth"))


@pytest.fixture(scope="module")
def real_images(shared: Path) -> list[Path]:
    """Return at most three gray and three RGBA radiographs."""
    by_mode: dict[str, list[Path]] = {"L": [], "RGBA": []}
    for path in sorted((shared / "nih").rglob("*.png")):
        with Image.open(path) as image:
            by_mode.setdefault(image.mode, []).append(path)
    assert by_mode["RGBA"], "the shared images must include RGBA ones"
    return by_mode["L"][:3] + by_mode["RGBA"][:3]


@pytest.mark.shared
def test_real_images_get_the_features_of_the_plain_pipeline(real_weights: Path, real_images: list[Path]) -> None:
    """Embeddings equal those of Pillow → RGB → torchvision → the unfolded network, in bf16 nearly so."""
    network = reference_network("resnet50-v1", torch.load(real_weights, weights_only=True))
    expected = reference_embeddings(network, [Image.open(path) for path in real_images])
    inputs = np.stack([to_model_input(decode_image(path.read_bytes()).pixels) for path in real_images])
    assert cosines(build("resnet50-v1", real_weights).embed(inputs), expected).min() >= 0.9999
    if has_native_bf16():
        assert cosines(build("resnet50-v1", real_weights, Precision.BF16).embed(inputs), expected).min() >= 0.999


@pytest.mark.shared
def test_real_weights_of_the_first_layout_are_refused_in_the_other(real_weights: Path) -> None:
    """The file would load into resnet50 and give wrong features; the message names the backbone that it needs."""
    with pytest.raises(WeightsError, match="--backbone resnet50-v1"):
        FrozenEncoder(EncoderSpec("resnet50", find_weights(get_backbone("resnet50"), str(real_weights))))
