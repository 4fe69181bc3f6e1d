"""Turn the stored values of a DICOM image into gray levels as a workstation shows them.

Source: DICOM PS3.3 C.7.6.3 (stored bits, padding), C.11.1 (modality LUT), C.11.2 (VOI LUT and windows).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.special
from numpy.typing import NDArray

from cxrfeat.errors import ImageError
from cxrfeat.images.decoded_image import STRIP_ROWS
from cxrfeat.io.schema import Reason

INVERTED = "MONOCHROME1"
PHOTOMETRIC = (INVERTED, "MONOCHROME2")
"""Photometric interpretations of gray images."""

TAGS = (
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PhotometricInterpretation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleIntercept",
    "RescaleSlope",
    "ModalityLUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "VOILUTSequence",
)
"""Keywords of the elements that :func:`to_gray` uses."""

_LOW_SHARE = 1 / 8


def to_gray(stored: NDArray[Any], dataset: Any, bits_stored: int | None) -> NDArray[np.uint8]:
    """Turn stored values into gray levels by a table of all values that the stored bits can have.

    Args:
        stored: (H, W) samples as they are stored, of an integer type.
        dataset: pydicom data set with the elements of :data:`TAGS`.
        bits_stored: declared number of bits for images without a window, or None.

    Returns:
        (H, W) uint8; 0 = black.

    Raises:
        ImageError: the full scale is unknown, or values exceed the declared bits.
    """
    bits, signed = int(dataset.get("BitsStored") or dataset.BitsAllocated), bool(dataset.get("PixelRepresentation"))
    high_bit = int(dataset.get("HighBit") or bits - 1)
    low = -(2 ** (bits - 1)) if signed else 0
    ramp = np.arange(low, low + 2**bits)  # (2^bits,) every value that can be stored
    padding = _find_padding(ramp, dataset, bits, signed)  # (2^bits,)
    used = np.zeros(len(ramp), dtype=bool)
    for strip in _list_strips(stored):
        used[_extract_bits(strip, bits, high_bit, signed) - low] = True
    levels = _to_levels(ramp, used & ~padding, dataset, bits, bits_stored, signed=signed)  # (2^bits,) from 0 to 1
    if dataset.PhotometricInterpretation == INVERTED:
        levels = 1 - levels
    levels[padding] = 0
    # As many levels as a screen has: the embedding is then that of the image as an 8-bit PNG, whatever its bits.
    table = np.rint(levels * 255).astype(np.uint8)
    pixels = np.empty(stored.shape, np.uint8)
    for source, target in zip(_list_strips(stored), _list_strips(pixels), strict=True):
        target[:] = table[_extract_bits(source, bits, high_bit, signed) - low]
    return pixels


def _list_strips(image: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield views of the rows, so that no second copy of a large image is made."""
    for top in range(0, len(image), STRIP_ROWS):
        yield image[top : top + STRIP_ROWS]


def _extract_bits(stored: NDArray[Any], bits: int, high_bit: int, signed: bool) -> NDArray[np.int32]:
    """Return the values of the stored bits; other bits of a sample may hold overlays."""
    values = stored.astype(np.int32)
    values >>= max(0, high_bit + 1 - bits)
    values &= (1 << bits) - 1
    if signed:
        values -= (values >> (bits - 1)) << bits
    return values


def _find_padding(ramp: NDArray[Any], dataset: Any, bits: int, signed: bool) -> NDArray[np.bool_]:
    """Return True for the values that stand for padding."""
    first = dataset.get("PixelPaddingValue")
    if first is None:
        return np.zeros(len(ramp), dtype=bool)
    last = dataset.get("PixelPaddingRangeLimit", first)
    limits = [int(_extract_bits(np.array(int(limit)), bits, bits - 1, signed)) for limit in (first, last)]
    return np.asarray((ramp >= min(limits)) & (ramp <= max(limits)))


def _to_levels(
    ramp: NDArray[Any], used: NDArray[np.bool_], dataset: Any, bits: int, declared: int | None, *, signed: bool
) -> NDArray[np.float64]:
    """Return the level of every value, (2^bits,) from 0 to 1, before inversion; ``used`` marks the image's values."""
    units = _apply_modality(ramp, dataset, signed)
    levels = _apply_window(units, dataset, signed)
    if levels is not None:
        return levels
    if declared is None or declared >= bits or signed:
        levels = _normalise(units, units)
        _check_range(levels[used], bits, declared)
        return levels
    white = 2**declared - 1
    highest = int(np.flatnonzero(used).max(initial=0))
    if highest > white:
        raise ImageError(
            Reason.BEYOND_BITS, f"maximum {highest}; expected at most {white}, as --bits-stored {declared} declares"
        )
    return np.clip(_normalise(units, units[: white + 1]), 0, 1)


def _apply_modality(values: NDArray[Any], dataset: Any, signed: bool) -> NDArray[np.float64]:
    """Return the values in the units of the modality, by its LUT or by slope and intercept."""
    if dataset.get("ModalityLUTSequence"):
        looked_up, _ = _look_up(values, dataset.ModalityLUTSequence[0], signed)
        return looked_up
    slope, intercept = (dataset.get(keyword) for keyword in ("RescaleSlope", "RescaleIntercept"))
    return np.asarray(values * float(1 if slope is None else slope) + float(intercept or 0), np.float64)


def _look_up(values: NDArray[Any], item: Any, signed: bool) -> tuple[NDArray[np.float64], int]:
    """Return the values in a LUT, whose first and last entry hold for all values outside, and the bits of its entries.

    Source: PS3.3 C.11.1.1.1. pydicom's own function knows entries of 8 and 16 bits only.
    """
    count, first, bits = (int(number) for number in item.LUTDescriptor)
    first -= 65536 if signed and first > 32767 else 0
    count = count or 65536
    data = item.LUTData
    if isinstance(data, bytes):
        data = np.frombuffer(data, np.uint8 if len(data) < 2 * count else "<u2")
    table = np.asarray(data, np.float64)
    return table[np.clip(np.rint(values).astype(np.int64) - first, 0, count - 1)], bits


def _read_windows(dataset: Any) -> tuple[float, float] | None:
    """Return centre and width of the first window, None without a valid one."""
    values = [dataset.get(keyword) for keyword in ("WindowCenter", "WindowWidth")]
    try:
        centre, width = (float(value if isinstance(value, str | float | int) else value[0]) for value in values)
    except (TypeError, ValueError, IndexError):
        return None
    return (centre, width) if np.isfinite(centre) and np.isfinite(width) and width > 0 else None


def _apply_window(values: NDArray[np.float64], dataset: Any, signed: bool) -> NDArray[np.float64] | None:
    """Return the levels from 0 to 1 by the VOI LUT or the first window; None without either."""
    if dataset.get("VOILUTSequence"):
        looked_up, bits = _look_up(values, dataset.VOILUTSequence[0], signed)
        return np.asarray(np.clip(looked_up / (2**bits - 1), 0, 1))
    window = _read_windows(dataset)
    if window is None:
        return None
    centre, width = window
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if function == "SIGMOID":
        return np.asarray(scipy.special.expit(4 * (values - centre) / width))
    if function == "LINEAR_EXACT":
        return np.asarray(np.clip((values - centre) / width + 0.5, 0, 1))
    if width <= 1:
        return np.asarray(values > centre - 0.5, dtype=np.float64)
    return np.asarray(np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1))


def _normalise(values: NDArray[Any], scale: NDArray[Any]) -> NDArray[np.float64]:
    """Return the values in shares of the range of a scale."""
    lowest, highest = float(scale.min()), float(scale.max())
    if not lowest < highest:
        raise ImageError(Reason.CORRUPT, f"the modality LUT gives {lowest:g} for all values; expected several")
    return np.asarray((values - lowest) / (highest - lowest))


def _check_range(levels: NDArray[np.float64], bits: int, declared: int | None) -> None:
    """Refuse an image without a window that uses a small part of its bits: probably it has fewer."""
    if declared is None and bits > 8 and levels.size and float(np.ptp(levels)) < _LOW_SHARE:
        raise ImageError(
            Reason.LOW_RANGE,
            f"no window, and the values use {np.ptp(levels):.1%} of {bits} stored bits; expected at least an eighth. "
            "If the images have fewer bits, declare it: --bits-stored",
        )
