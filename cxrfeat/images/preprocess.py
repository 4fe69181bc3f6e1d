"""Preprocess gray images for a backbone as its :class:`InputSpec` describes."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxrfeat.errors import ConfigError
from cxrfeat.images.decoded_image import STRIP_ROWS, Pixels

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation per channel of pixels in [0, 1]. Source: torchvision, ResNet50_Weights.IMAGENET1K_V1."""

MIN_SIZE, MAX_SIZE = 32, 2048
"""Limits of an input's height and width in pixels: the largest is that of the original images."""

_NORMALISATIONS = {
    (IMAGENET_MEAN, IMAGENET_STD): "imagenet",
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)): "half",  # -1 to 1
    ((0.5,), (1 / 2048,)): "xrv",  # -1024 to 1024, as torchxrayvision's networks take it
}
"""Short names of the usual means and standard deviations."""


class Fit(StrEnum):
    """Method that turns an image of any shape into a square."""

    SQUASH = "squash"
    """Resize height and width independently: the whole image is visible, its aspect ratio changes."""
    CROP = "crop"
    """Resize the shorter side and cut off both ends of the longer one."""
    PAD = "pad"
    """Resize the longer side and add black bars along the shorter one."""


class Interpolation(StrEnum):
    """Antialiased interpolation of Pillow's resize."""

    BILINEAR = "bilinear"
    BICUBIC = "bicubic"


_FILTERS = {
    Interpolation.BILINEAR: Image.Resampling.BILINEAR,
    Interpolation.BICUBIC: Image.Resampling.BICUBIC,
}


@dataclass(frozen=True)
class InputSpec:
    """Input that a backbone expects; part of the extractor's fingerprint.

    Attributes:
        size: height and width in pixels.
        fit: how an image becomes a square.
        interpolation: interpolation of the resize.
        channels: 3 repeats the gray plane, 1 does not.
        mean: mean per channel of pixels in [0, 1], subtracted first.
        std: divisor per channel; a backbone that takes pixels in another range has the range's inverse here.

    Raises ConfigError for values out of range.
    """

    size: int = 224
    fit: Fit = Fit.SQUASH
    interpolation: Interpolation = Interpolation.BILINEAR
    channels: int = 3
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        """Check the values."""
        if not MIN_SIZE <= self.size <= MAX_SIZE:
            raise ConfigError(f"input size {self.size}; expected {MIN_SIZE} to {MAX_SIZE} pixels")
        if self.fit not in list(Fit):
            raise ConfigError(f"unknown fit {self.fit!r}; expected one of {', '.join(Fit)}")
        if self.interpolation not in list(Interpolation):
            expected = ", ".join(Interpolation)
            raise ConfigError(f"unknown interpolation {self.interpolation!r}; expected one of {expected}")
        if self.channels not in (1, 3) or not len(self.mean) == len(self.std) == self.channels:
            raise ConfigError(
                f"{self.channels} channels with {len(self.mean)} means and {len(self.std)} standard deviations; "
                "expected 1 or 3 of each"
            )
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            raise ConfigError(f"mean {self.mean} and std {self.std}; expected finite means and std above 0")

    @property
    def name(self) -> str:
        """Short readable form, different for every spec: ``gray224-bilinear-imagenet``."""
        shape = f"gray{self.size}" + ("" if self.channels == 3 else f"x{self.channels}")
        fit = "" if self.fit == Fit.SQUASH else f"-{self.fit}"
        numbers = f"mean{_join(self.mean)}-std{_join(self.std)}"
        return f"{shape}{fit}-{self.interpolation}-{_NORMALISATIONS.get((self.mean, self.std), numbers)}"


def _join(numbers: tuple[float, ...]) -> str:
    return ",".join(map(repr, numbers))


_NAME = re.compile(rf"gray(\d+)(?:x\d)?(?:-({'|'.join(Fit)}))?-(?:{'|'.join(Interpolation)})-.+")


def parse_name(name: str) -> tuple[int, Fit] | None:
    """Return the size and the fit that an :attr:`InputSpec.name` contains, or None for a name of another form.

    Example:
        >>> parse_name("gray448-pad-bicubic-imagenet")
        (448, <Fit.PAD: 'pad'>)
    """
    found = _NAME.fullmatch(name)
    return (int(found[1]), Fit(found[2] or Fit.SQUASH)) if found else None


DEFAULT_INPUT = InputSpec()
"""Input of ResNet50, as torchvision's ImageNet networks expect it, but without a crop."""

SIDE = DEFAULT_INPUT.size
"""Height and width of the default input in pixels."""


def to_model_input(pixels: Pixels, spec: InputSpec = DEFAULT_INPUT) -> NDArray[np.uint8]:
    """Resize one gray image to the input size of a backbone.

    Full scale comes from the bit depth, never from the minimum and maximum of the image: a dark image stays dark, and a
    constant image is legal. By default the aspect ratio is not kept, as in the 2018 system: a crop would cut off the
    costophrenic angles. The result is one plane of bytes, a twelfth of three planes of float32 in memory and in
    transfers to a GPU, and for 8-bit input it equals the reference bit for bit. The encoder standardises and repeats
    the plane on its device.

    Args:
        pixels: (H, W) uint8, or uint16 with full scale 65535; 0 = black.
        spec: the backbone's input.

    Returns:
        (size, size) uint8.

    Raises:
        TypeError: the dtype or rank is wrong.

    Source: Pillow's antialiased resize, as in ``torchvision.transforms.Resize((224, 224))`` of a PIL image.

    Example:
        >>> model_input = to_model_input(np.full((1024, 900), 65535, dtype=np.uint16))
        >>> model_input.shape, model_input.dtype, int(model_input.min())  # white stays white at any bit depth
        ((224, 224), dtype('uint8'), 255)
    """
    if pixels.ndim != 2 or pixels.dtype not in (np.uint8, np.uint16):
        raise TypeError(f"pixels are {pixels.dtype} of shape {pixels.shape}; expected (H, W) uint8 or uint16")
    if pixels.dtype == np.uint8:
        return np.asarray(_resize(Image.fromarray(pixels), spec))
    resized: NDArray[np.float32] = np.asarray(_resize(_to_float_image(pixels), spec))
    return np.rint(resized).clip(0, 255).astype(np.uint8)  # bicubic interpolation overshoots at edges


def _to_float_image(pixels: Pixels) -> Image.Image:
    """Return a float image of the levels 0 to 255, made in strips: a large image fits into memory once, not twice."""
    height, width = pixels.shape
    image = Image.new("F", (width, height))
    for top in range(0, height, STRIP_ROWS):
        strip = pixels[top : top + STRIP_ROWS].astype(np.float32) * np.float32(255 / 65535)
        image.paste(Image.fromarray(strip), (0, top))
    return image


def find_region(width: int, height: int, fit: Fit) -> tuple[float, float, float, float]:
    """Return the part of an image that its model input shows: left, top, right and bottom in shares of the sides.

    Black bars around the image give values below 0 and above 1.

    Example:
        >>> find_region(2000, 1000, Fit.CROP), find_region(2000, 1000, Fit.PAD)
        ((0.25, 0.0, 0.75, 1.0), (0.0, -0.5, 1.0, 1.5))
    """
    if fit == Fit.SQUASH:
        return 0.0, 0.0, 1.0, 1.0
    side = min(width, height) if fit == Fit.CROP else max(width, height)
    margin_x, margin_y = (1 - side / width) / 2, (1 - side / height) / 2
    return margin_x, margin_y, 1 - margin_x, 1 - margin_y


def _resize(image: Image.Image, spec: InputSpec) -> Image.Image:
    """Return a square image of the spec's size, in the same mode."""
    square, resampling = (spec.size, spec.size), _FILTERS[spec.interpolation]
    width, height = image.size
    if spec.fit == Fit.CROP:
        left, top, right, bottom = find_region(width, height, spec.fit)
        return image.resize(square, resampling, box=(left * width, top * height, right * width, bottom * height))
    if spec.fit == Fit.PAD:
        scale = spec.size / max(width, height)
        inner = (max(1, round(width * scale)), max(1, round(height * scale)))
        padded = Image.new(image.mode, square)
        padded.paste(image.resize(inner, resampling), ((spec.size - inner[0]) // 2, (spec.size - inner[1]) // 2))
        return padded
    return image.resize(square, resampling)
