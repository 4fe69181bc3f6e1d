"""Gray film → what the backbone sees, and the one place where the preprocessing has a name."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 224
"""Pixels of each side of the backbone's input."""

NAME = "gray224-bilinear-imagenet"
"""Part of the extractor's fingerprint: any change to this module's output needs another name."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of each channel, for pixels in [0, 1]. Source: torchvision, ResNet50_Weights.IMAGENET1K_V1."""


def to_model_input(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Resize one film to the backbone's input; the encoder repeats the plane and standardises it on its device.

    Full scale comes from the bit depth, never from the image's own min and max: an all-dark film stays dark, and a
    constant film is legal. The aspect ratio is not kept, as in the 2018 system: the whole film is squeezed to a
    square. Bytes and not floats leave here, because they are a twelfth of three planes of floats, in memory and on
    the way to a GPU, and because the 8-bit result equals the reference path bit for bit.

    Args:
        pixels: (H, W) uint8, or uint16 with full scale 65535; 0 = black.

    Returns:
        (224, 224) uint8.

    Raises:
        TypeError: another dtype or rank.

    Source: Pillow's antialiased bilinear resize, as ``torchvision.transforms.Resize((224, 224))`` does to a PIL image.

    Example:
        >>> model_input = to_model_input(np.full((1024, 900), 65535, dtype=np.uint16))
        >>> model_input.shape, model_input.dtype, int(model_input.min())  # white stays white, whatever its depth
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
    """Mirror a (…, H, W) input left to right."""
    return model_input[..., ::-1]
