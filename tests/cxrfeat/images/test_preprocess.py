"""The preprocessing equals torchvision's resize bit for bit, with full scale from the bit depth alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torchvision import transforms

from cxrfeat.images.preprocess import IMAGENET_MEAN, IMAGENET_STD, SIDE, to_model_input
from tests import fakes

SIZES = [(32, 32), (64, 64), (224, 224), (300, 200), (97, 641), (1024, 1024), (33, 1500)]

sizes = st.tuples(st.integers(32, 400), st.integers(32, 400))


def sixteen_bit(pixels: fakes.Gray8) -> NDArray[np.uint16]:
    """Return the 8-bit image in 16 bits: 255 becomes 65535."""
    return pixels.astype(np.uint16) * 257


def distance(one: fakes.Gray8, other: fakes.Gray8) -> int:
    """Return the largest difference between two images in levels."""
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def torchvision_input(pixels: fakes.Gray8) -> NDArray[Any]:
    return np.asarray(transforms.Resize((224, 224))(Image.fromarray(pixels)))


@pytest.mark.parametrize("size", SIZES)
def test_eight_bits_equal_torchvision(size: tuple[int, int]) -> None:
    """Down or up, whatever the aspect: exactly torchvision's Resize of the PIL image."""
    pixels = fakes.gray_image(*size)
    made = to_model_input(pixels)
    assert made.shape == (224, 224)
    assert made.dtype == np.uint8
    np.testing.assert_array_equal(made, torchvision_input(pixels))


@given(sizes, st.integers(0, 100))
def test_any_size_equals_torchvision(size: tuple[int, int], seed: int) -> None:
    """The equality holds for every size that the decoder lets through."""
    pixels = fakes.gray_image(*size, seed=seed)
    np.testing.assert_array_equal(to_model_input(pixels), torchvision_input(pixels))


@pytest.mark.parametrize("size", SIZES)
def test_sixteen_bits_equal_eight(size: tuple[int, int]) -> None:
    """The same image in 16 bits gives the same input within a level, because full scale is that of the bit depth."""
    pixels = fakes.gray_image(*size)
    made = to_model_input(sixteen_bit(pixels))
    assert made.shape == (224, 224)
    assert made.dtype == np.uint8
    assert distance(made, to_model_input(pixels)) <= 1


@given(sizes, st.integers(0, 100))
def test_sixteen_bits_are_rounded_once_at_the_end(size: tuple[int, int], seed: int) -> None:
    """Every level is the nearest one to PyTorch's antialiased resize of the exact values: nothing is rounded before."""
    noise = np.random.default_rng(seed).integers(0, 65536, size=size).astype(np.uint16)
    exact = nn.functional.interpolate(
        torch.from_numpy(noise / 257.0)[None, None], (224, 224), mode="bilinear", antialias=True, align_corners=False
    )
    error = np.abs(to_model_input(noise) - exact.numpy()[0, 0])
    assert error.max() <= 0.501


def test_sixteen_bits_keep_more_than_eight() -> None:
    """A 16-bit image is averaged before rounding: levels within one 8-bit step stay distinct."""
    stripes = np.zeros((448, 448), np.uint16)
    stripes[:, ::2] = 257
    assert to_model_input(stripes).max() <= 1
    assert to_model_input(stripes + np.uint16(200)).min() == 1


@pytest.mark.parametrize("value", [0, 1, 100, 255])
def test_a_constant_image_stays_constant(value: int) -> None:
    """Nothing is divided by a contrast that may be zero, in 8 bits and in 16."""
    for pixels in (np.full((90, 50), value, np.uint8), np.full((90, 50), value * 257, np.uint16)):
        np.testing.assert_array_equal(to_model_input(pixels), np.full((224, 224), value))


@pytest.mark.parametrize("deep", [False, True])
def test_a_dark_image_stays_dark(deep: bool) -> None:
    """Full scale is never taken from the image: values in the lowest 2 % of the range stay there."""
    share = fakes.gray_image(100, 100) / 255 * 0.02
    made = to_model_input((share * 65535).astype(np.uint16) if deep else (share * 255).astype(np.uint8))
    assert 0 < made.max() <= 6


def test_up_is_up_and_left_is_left() -> None:
    """A bright corner stays in its corner: nothing is transposed, rotated or mirrored."""
    pixels = np.zeros((400, 300), np.uint8)
    pixels[:200, :150] = 255
    quarters = to_model_input(pixels).reshape(2, 112, 2, 112).mean(axis=(1, 3))
    assert quarters[0, 0] > 250
    assert max(quarters[0, 1], quarters[1, 0], quarters[1, 1]) < 5


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((64, 64), np.float32),
        np.zeros((64, 64), np.int32),
        np.zeros((64, 64), np.bool_),
        np.zeros((64, 64, 3), np.uint8),
        np.zeros(64, np.uint8),
    ],
)
def test_other_arrays_are_refused(pixels: NDArray[Any]) -> None:
    """Floats, colour and vectors are an error of the caller; the message gives dtype and shape."""
    with pytest.raises(TypeError) as refused:
        to_model_input(pixels)
    assert f"{pixels.dtype} of shape {pixels.shape}" in str(refused.value)


def test_the_constants_are_those_of_the_published_weights() -> None:
    """Mean, spread and side are what torchvision's IMAGENET1K_V1 weights were trained with."""
    from torchvision.models import ResNet50_Weights

    published = ResNet50_Weights.IMAGENET1K_V1.transforms()
    assert (list(IMAGENET_MEAN), list(IMAGENET_STD), [SIDE]) == (published.mean, published.std, published.crop_size)
