"""Preprocess gray images for the backbones; :data:`NAME` identifies the preprocessing in fingerprints."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 224
"""Height and width of the backbone's input in pixels."""

NAME = "gray224-bilinear-imagenet"
"""Part of the extractor's fingerprint; every change of this module's output needs a new name."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation per channel of pixels in [0, 1]. Source: torchvision, ResNet50_Weights.IMAGENET1K_V1."""


def to_model_input(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Resize one gray image to the input size of the backbone.

    Full scale comes from the bit depth, never from the minimum and maximum of the image: a dark image stays dark, and a
    constant image is legal. As in the 2018 system, the aspect ratio is not kept: the whole image is resized to a
    square. The result is one plane of bytes, a twelfth of three planes of float32 in memory and in transfers to a GPU,
    and for 8-bit input it equals the reference bit for bit. The encoder standardises and repeats the plane on its
    device.

    Args:
        pixels: (H, W) uint8, or uint16 with full scale 65535; 0 = black.

    Returns:
        (224, 224) uint8.

    Raises:
        TypeError: the dtype or rank is wrong.

    Source: Pillow's antialiased bilinear resize, as in ``torchvision.transforms.Resize((224, 224))`` of a PIL image.

    Example:
        >>> model_input = to_model_input(np.full((1024, 900), 65535, dtype=np.uint16))
        >>> model_input.shape, model_input.dtype, int(model_input.min())  # white stays white at any bit depth
        ((224, 224), dtype('uint8'), 255)
    """
    if pixels.ndim != 2 or pixels.dtype not in (np.uint8, np.uint16):
        raise TypeError(f"pixels are {pixels.dtype} of shape {pixels.shape}; expected (H, W) uint8 or uint16")
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    scaled = Image.fromarray(pixels.astype(np.float32) * (255 / 65535))
    resized: NDArray[np.float32] = np.asarray(scaled.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    return np.rint(resized).astype(np.uint8)


def hflip(model_input: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a (…, H, W) input mirrored left to right."""
    return model_input[..., ::-1]
