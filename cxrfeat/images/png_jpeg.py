"""Bytes of an image file → gray pixels, or the reason why not.

Legal radiographs: PNG and JPEG in 1-bit, 8-bit or 16-bit gray, and RGB, RGBA, gray + alpha or palette files whose
picture is gray (about 1 % of ChestX-ray14 is gray stored as RGBA). Everything else is refused with a reason code,
never guessed at: a colour photograph is not a radiograph, and CMYK comes from a print shop.
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
"""File names that are looked at, in lower case; other files in the folder are left alone."""

MIN_SIDE = 32
"""Pixels; anything smaller can't show a chest."""

MAX_PIXELS = 64_000_000
"""Pixels of one image; the largest X-ray detectors have about 18 million, a decompression bomb has more than this."""

COLOUR_TOLERANCE = 24
"""Levels of 255 by which the channels of a gray pixel may differ (JPEG leaves traces of colour)."""

MAX_COLOURED_SHARE = 0.01
"""Share of pixels that may be coloured, so that a small burned-in mark does not condemn a film."""

_PIXEL_FORMATS = {
    "1": "gray1",
    "L": "gray8",
    "I;16": "gray16",
    "I;16B": "gray16",
    "I": "gray16",  # how Pillow opens a 16-bit PNG in some versions; the values stay in 0–65535
    "LA": "graya8",
    "RGB": "rgb8",
    "RGBA": "rgba8",
    "P": "palette8",
}
_FORMATS = ("PNG", "JPEG")
_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8")


@dataclass(frozen=True)
class Radiograph:
    """One decoded film.

    Attributes:
        pixels: (H, W) uint8, 0 = black, or uint16 with full scale 65535; H and W at least 32.
        pixel_format: as the decoder opens them: gray8, gray16, rgba8, palette8, …
    """

    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    pixel_format: str


def decode(data: bytes) -> Radiograph:
    """Decode the bytes of one file.

    Colour modes become gray by the luma of ITU-R 601, which leaves a gray pixel as it is; alpha is ignored, as the
    RGB path of every training pipeline ignores it.

    Args:
        data: the whole file.

    Returns:
        The film. For 8-bit gray the pixels are what Pillow's ``convert("L")`` gives.

    Raises:
        ImageError: the file can't be a radiograph; ``reason`` says why.

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
        raise ImageError(Reason.TOO_LARGE, f"{error}; at most {MAX_PIXELS} pixels are decoded") from error
    except UnidentifiedImageError as error:
        if data.startswith(_SIGNATURES):
            raise ImageError(Reason.CORRUPT, f"the header of {len(data)} bytes can't be read") from error
        raise ImageError(Reason.NOT_PNG_OR_JPEG, f"neither PNG nor JPEG; it starts with {data[:16]!r}") from error
    # Mutated files make Pillow's readers raise nearly anything, from SyntaxError to AssertionError. There is no input
    # here but the file, so whatever it is, it is the file's.
    except Exception as error:
        raise ImageError(Reason.CORRUPT, f"{len(data)} bytes can't be decoded: {error!r}") from error


def _check_header(image: Image.Image) -> None:
    width, height = image.size
    if image.mode not in _PIXEL_FORMATS:
        raise ImageError(
            Reason.UNSUPPORTED_MODE, f"{image.format} in mode {image.mode}; expected one of {list(_PIXEL_FORMATS)}"
        )
    if min(width, height) < MIN_SIDE:
        raise ImageError(Reason.TOO_SMALL, f"{width}x{height} pixels; each side needs at least {MIN_SIDE}")
    if width * height > MAX_PIXELS:
        raise ImageError(Reason.TOO_LARGE, f"{width}x{height} pixels; at most {MAX_PIXELS} are decoded")


def _to_gray(image: Image.Image) -> Radiograph:
    pixel_format = _PIXEL_FORMATS[image.mode]
    if pixel_format == "gray16":
        return Radiograph(np.asarray(image).astype(np.uint16), pixel_format)
    if pixel_format in ("rgb8", "rgba8", "palette8"):
        # By way of RGBA, or a palette with transparency makes Pillow warn; alpha is dropped either way.
        image = image.convert("RGBA").convert("RGB")
        _check_colourless(image)
    return Radiograph(np.asarray(image.convert("L")), pixel_format)


def _check_colourless(image: Image.Image) -> None:
    red, green, blue = (np.asarray(channel) for channel in image.split())
    highest = np.maximum(np.maximum(red, green), blue)
    lowest = np.minimum(np.minimum(red, green), blue)
    share = float(((highest - lowest) > COLOUR_TOLERANCE).mean())
    if share > MAX_COLOURED_SHARE:
        raise ImageError(
            Reason.COLOUR,
            f"{share:.1%} of the pixels are coloured; a radiograph has at most {MAX_COLOURED_SHARE:.0%}",
        )
