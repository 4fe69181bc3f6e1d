"""Decode PNG and JPEG files to gray pixels, or reject them with a reason code.

Accepted: 1-bit, 8-bit and 16-bit gray, and RGB, RGBA, gray + alpha and palette files with gray content (about 1 % of
ChestX-ray14 is gray stored as RGBA). Everything else is rejected rather than converted: colour photographs and CMYK
prints are not radiographs.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from cxrfeat.errors import ImageError
from cxrfeat.io.schema import Reason

SUFFIXES = (".png", ".jpg", ".jpeg")
"""Accepted file name suffixes in lower case; all other files in a folder are ignored."""

MIN_SIDE = 32
"""Minimum height and width in pixels; a smaller image cannot show a chest."""

MAX_PIXELS = 64_000_000
"""Maximum pixels per image: the largest X-ray detectors have about 18 million, decompression bombs far more."""

COLOUR_TOLERANCE = 24
"""Maximum difference between the channels of a gray pixel, of 255 levels (JPEG leaves traces of colour)."""

MAX_COLOURED_SHARE = 0.01
"""Maximum share of coloured pixels, so that a small burned-in mark does not reject an image."""

_PIXEL_FORMATS = {
    "1": "gray1",
    "L": "gray8",
    "I;16": "gray16",
    "I;16B": "gray16",
    "I": "gray16",  # some versions of Pillow open 16-bit PNGs in this mode; the values stay in 0–65535
    "LA": "graya8",
    "RGB": "rgb8",
    "RGBA": "rgba8",
    "P": "palette8",
}
_FORMATS = ("PNG", "JPEG")
_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8")


@dataclass(frozen=True)
class Radiograph:
    """Gray pixels of one decoded image.

    Attributes:
        pixels: (H, W) uint8, 0 = black, or uint16 with full scale 65535; H and W at least 32.
        pixel_format: pixel format of the file: gray8, gray16, rgba8, palette8, …
    """

    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    pixel_format: str


def decode(data: bytes) -> Radiograph:
    """Decode the bytes of one image file.

    Colour modes are converted to ITU-R 601 luma, which does not change gray pixels. Alpha is ignored, as in the RGB
    conversion of the usual training pipelines.

    Args:
        data: content of the whole file.

    Returns:
        The decoded image; 8-bit pixels equal those of Pillow's ``convert("L")``.

    Raises:
        ImageError: the file is not an acceptable radiograph; ``reason`` gives the reason code.

    Example:
        >>> decode(b"GIF89a")
        Traceback (most recent call last):
        cxrfeat.errors.ImageError: neither PNG nor JPEG; it starts with b'GIF89a'
    """
    if not data:
        raise ImageError(Reason.EMPTY, "the file has 0 bytes")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_header(image)
            image.load()
            return _to_gray(image)
    except (ImageError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(Reason.TOO_LARGE, f"{error}; expected at most {MAX_PIXELS} pixels") from error
    except UnidentifiedImageError as error:
        if data.startswith(_SIGNATURES):
            raise ImageError(Reason.CORRUPT, f"cannot read the image header; the file has {len(data)} bytes") from error
        raise ImageError(Reason.NOT_PNG_OR_JPEG, f"neither PNG nor JPEG; it starts with {data[:16]!r}") from error
    # Damaged files make Pillow raise nearly any exception, from SyntaxError to AssertionError. The file is the only
    # input here, so it must be the cause.
    except Exception as error:
        raise ImageError(Reason.CORRUPT, f"cannot decode the {len(data)} bytes of the file: {error!r}") from error


def _check_header(image: Image.Image) -> None:
    width, height = image.size
    if image.mode not in _PIXEL_FORMATS:
        expected = ", ".join(_PIXEL_FORMATS)
        raise ImageError(Reason.UNSUPPORTED_MODE, f"{image.format} in mode {image.mode}; expected one of {expected}")
    if min(width, height) < MIN_SIDE:
        raise ImageError(Reason.TOO_SMALL, f"{width}x{height} pixels; expected at least {MIN_SIDE} on each side")
    if width * height > MAX_PIXELS:
        raise ImageError(Reason.TOO_LARGE, f"{width}x{height} pixels; expected at most {MAX_PIXELS}")


def _to_gray(image: Image.Image) -> Radiograph:
    pixel_format = _PIXEL_FORMATS[image.mode]
    if pixel_format == "gray16":
        return Radiograph(np.asarray(image).astype(np.uint16), pixel_format)
    if pixel_format in ("rgb8", "rgba8", "palette8"):
        # Convert via RGBA, because Pillow warns about palettes with transparency; alpha is dropped in any case.
        image = image.convert("RGBA").convert("RGB")
        _check_colourless(image)
    return Radiograph(np.asarray(image.convert("L")), pixel_format)


def _check_colourless(image: Image.Image) -> None:
    red, green, blue = (np.asarray(channel) for channel in image.split())  # (H, W) each
    highest = np.maximum(np.maximum(red, green), blue)
    lowest = np.minimum(np.minimum(red, green), blue)
    share = float(((highest - lowest) > COLOUR_TOLERANCE).mean())
    if share > MAX_COLOURED_SHARE:
        raise ImageError(
            Reason.COLOUR,
            f"{share:.1%} of the pixels are coloured; expected at most {MAX_COLOURED_SHARE:.0%}",
        )
