"""Gray pixels of one decoded image, and the checks that all image formats share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxrfeat.errors import ConfigError, ImageError
from cxrfeat.images.header import Header, Pseudonyms
from cxrfeat.io.schema import Reason

MAX_FILE_BYTES = 256 * 1024**2
"""Size limit of one file or member: no radiograph is this large, and one file must not fill a worker's memory."""

MIN_SIDE = 32
"""Minimum height and width in pixels; a smaller image cannot show a chest."""

MAX_PIXELS = 64_000_000
"""Maximum pixels per image: the largest X-ray detectors have about 18 million, decompression bombs far more."""

MAX_DECODED_BYTES = 256 * 1024**2
"""Maximum bytes of the samples of one image, of all channels: 64 million pixels of 32 bits."""

MAX_IMAGE_MEMORY = 640 * 1024**2
"""Bytes of memory that decoding and resizing one file takes at most, beside the file itself."""

COLOUR_TOLERANCE = 24
"""Maximum difference between the channels of a gray pixel, of 255 levels (JPEG leaves traces of colour)."""

MAX_COLOURED_SHARE = 0.01
"""Maximum share of coloured pixels, so that a small burned-in mark does not reject an image."""

FULL_SCALE = 65535
"""White in 16 bits."""

LOW_RANGE = (FULL_SCALE + 1) // 8
"""16-bit images that stay below this value have probably fewer than 16 bits, whose number the file does not say."""

STRIP_ROWS = 256
"""Rows that are converted at once, so that no second copy of a large image is made."""

_LUMA = (19595, 38470, 7471)  # of 65536; source: ITU-R BT.601-7, as Pillow's convert("L") rounds it


@dataclass(frozen=True)
class ReadOptions:
    """Facts about the files of a run that the files do not say themselves.

    Attributes:
        image_feature: name of the feature with the image in TFRecord files; None tries the usual ones.
        bits_stored: number of bits in use, from the lowest, in samples of 16 bits; None means all of them.
        any_dicom: accept DICOM images of any modality and body part.
        pseudonyms: rule for the identifiers in DICOM headers; None leaves them out.

    Raises ConfigError for values out of range.
    """

    image_feature: str | None = None
    bits_stored: int | None = None
    any_dicom: bool = False
    pseudonyms: Pseudonyms | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if self.bits_stored is not None and not 9 <= self.bits_stored <= 16:
            raise ConfigError(f"--bits-stored {self.bits_stored}; expected 9 to 16")


DEFAULT_OPTIONS = ReadOptions()


Pixels = NDArray[np.uint8] | NDArray[np.uint16]
"""Gray pixels or samples: uint8 with full scale 255, or uint16 with full scale 65535."""


@dataclass(frozen=True)
class Radiograph:
    """Gray pixels of one decoded image.

    Attributes:
        pixels: (H, W) uint8, 0 = black, or uint16 with full scale 65535; H and W at least 32.
        pixel_format: pixel format of the file: gray8, gray16, rgba8, palette4, … An EXIF orientation other than 1 is
            appended: gray8-exif6. For DICOM, it is the photometric interpretation and the stored bits: monochrome1-12.
        header: facts of a DICOM header.
    """

    pixels: Pixels
    pixel_format: str
    header: Header | None = None


def check_size(width: int, height: int, sample_bytes: int) -> None:
    """Check the size of an image before it is decoded.

    Args:
        width: width in pixels.
        height: height in pixels.
        sample_bytes: bytes that the decoder needs for each pixel, of all channels.

    Raises:
        ImageError: the image is too small or too large.
    """
    if min(width, height) < MIN_SIDE:
        raise ImageError(Reason.TOO_SMALL, f"{width}x{height} pixels; expected at least {MIN_SIDE} on each side")
    if width * height > MAX_PIXELS:
        raise ImageError(Reason.TOO_LARGE, f"{width}x{height} pixels; expected at most {MAX_PIXELS}")
    size = width * height * sample_bytes
    if size > MAX_DECODED_BYTES:
        raise ImageError(
            Reason.TOO_LARGE, f"{width}x{height} pixels take {size} bytes; expected at most {MAX_DECODED_BYTES}"
        )


def spread_bits(samples: NDArray[np.uint16], bits_stored: int | None) -> NDArray[np.uint16]:
    """Scale 16-bit samples to full scale 65535, or refuse them if their full scale is unknown.

    Args:
        samples: (H, W) or (H, W, C) uint16 as stored in the file.
        bits_stored: declared number of bits in use; None if all 16 are.

    Returns:
        uint16 of the same shape: white is 65535 whatever ``bits_stored`` is.

    Raises:
        ImageError: low-range if nothing is declared and the maximum is below an eighth of full scale; beyond-bits if
            the maximum exceeds the declared bits.

    Example:
        >>> spread_bits(np.array([[0, 2048, 4095]], dtype=np.uint16), 12)
        array([[    0, 32776, 65535]], dtype=uint16)
    """
    highest = int(samples.max())
    if bits_stored is None:
        if highest < LOW_RANGE:
            likely = max(9, highest.bit_length())
            raise ImageError(
                Reason.LOW_RANGE,
                f"16-bit samples have a maximum of {highest}; expected at least {LOW_RANGE}. If the images have "
                f"{likely} bits, declare it: --bits-stored {likely}",
            )
        return samples
    white = 2**bits_stored - 1
    if highest > white:
        raise ImageError(
            Reason.BEYOND_BITS, f"maximum {highest}; expected at most {white}, as --bits-stored {bits_stored} declares"
        )
    if bits_stored == 16:
        return samples
    levels = ((np.arange(white + 1) * FULL_SCALE + white // 2) // white).astype(np.uint16)
    spread = np.empty_like(samples)
    for top in range(0, len(samples), STRIP_ROWS):  # the indices of a strip take four times its bytes
        spread[top : top + STRIP_ROWS] = levels[samples[top : top + STRIP_ROWS]]
    return spread


def merge_channels(strips: Iterable[Pixels], width: int, height: int) -> Pixels:
    """Return the luma of an RGB image whose content is gray. Gray pixels keep their value.

    Args:
        strips: the image from top to bottom, (h, W, 3) uint8 or uint16 each.
        width: width in pixels.
        height: height in pixels.

    Returns:
        (H, W) in the dtype of the strips.

    Raises:
        ImageError: the image has colours.

    Source: ITU-R BT.601-7 luma with the integer weights of Pillow's ``convert("L")``.
    """
    gray: Pixels | None = None
    coloured = top = 0
    for strip in strips:
        if gray is None:
            gray = np.empty((height, width), dtype=strip.dtype)
        red, green, blue = (strip[..., channel] for channel in range(3))  # (h, W) each
        spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
        coloured += int(np.count_nonzero(spread > COLOUR_TOLERANCE * (np.iinfo(strip.dtype).max // 255)))
        luma = red * np.uint32(_LUMA[0]) + green * np.uint32(_LUMA[1]) + blue * np.uint32(_LUMA[2]) + np.uint32(0x8000)
        gray[top : top + len(strip)] = luma >> 16
        top += len(strip)
    if gray is None or top != height:
        raise ImageError(Reason.CORRUPT, f"{top} of {height} rows")
    share = coloured / gray.size
    if share > MAX_COLOURED_SHARE:
        raise ImageError(
            Reason.COLOUR, f"{share:.1%} of the pixels are coloured; expected at most {MAX_COLOURED_SHARE:.0%}"
        )
    return gray
