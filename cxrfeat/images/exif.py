"""Orientation of an image by its EXIF data: most X-rays have none, but photographed and edited ones may.

Source: EXIF 2.32, and TIFF 6.0 for the layout of its data.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

from cxrfeat.images.decoded_image import Pixels, Radiograph

MAX_BYTES = 65536
"""Maximum size of EXIF data that is read: the size of a JPEG segment."""

_ORIENTATION, _SHORT = 0x0112, 3
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}

_TURNS: Mapping[int, Callable[[Pixels], Pixels]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.T,
    6: lambda pixels: pixels.T[:, ::-1],
    7: lambda pixels: pixels[::-1, ::-1].T,
    8: lambda pixels: pixels.T[::-1],
}
"""Function that turns the stored (H, W) pixels upright, by orientation."""


def read_orientation(exif: bytes) -> int:
    """Return the orientation in EXIF data without its prefix, 1 to 8; 1 if there is none or the data are damaged.

    Pillow reads it too, but warns about damaged data on the terminal of every worker.
    """
    order = _BYTE_ORDERS.get(exif[:4])
    if order is None or len(exif) < 10:
        return 1
    start = struct.unpack_from(f"{order}I", exif, 4)[0]
    entries = struct.unpack_from(f"{order}H", exif, start)[0] if start + 2 <= len(exif) else 0
    for at in range(start + 2, min(start + 2 + 12 * entries, len(exif) - 11), 12):
        tag, kind, count, value = struct.unpack_from(f"{order}HHIH", exif, at)
        if (tag, kind, count) == (_ORIENTATION, _SHORT, 1) and value in _TURNS:
            return int(value)
    return 1


def turn_upright(radiograph: Radiograph, exif: bytes | None) -> Radiograph:
    """Return the image as its EXIF orientation shows it, and note the orientation in the pixel format."""
    orientation = 1 if exif is None else read_orientation(exif)
    if orientation == 1:
        return radiograph
    upright = _TURNS[orientation](radiograph.pixels).copy()  # contiguous
    return Radiograph(upright, f"{radiograph.pixel_format}-exif{orientation}", radiograph.header)
