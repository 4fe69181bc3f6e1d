"""Decode JPEG files and refuse what the decoder warns about.

Source: ITU-T T.81, and libjpeg-turbo, whose warnings (premature end, corrupt data) are errors here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from cxrfeat.errors import ImageError
from cxrfeat.images.decoded_image import STRIP_ROWS, Radiograph, ReadOptions, check_size, merge_channels
from cxrfeat.images.exif import turn_upright
from cxrfeat.io.schema import Reason

SIGNATURE = b"\xff\xd8\xff"

MAX_SCANS = 100
"""Maximum scans of a progressive file: encoders write about ten, and each scan costs a pass over the whole image."""

MAX_SCANNED_PIXELS = 1_000_000_000
"""Maximum number of scans times pixels: about two seconds of one core."""

_DECODED = {0xC0: "baseline", 0xC1: "extended", 0xC2: "progressive"}
_REFUSED = {
    0xC3: "lossless JPEG",
    0xC5: "hierarchical JPEG",
    0xC6: "hierarchical JPEG",
    0xC7: "hierarchical JPEG",
    0xC9: "arithmetic-coded JPEG",
    0xCA: "arithmetic-coded JPEG",
    0xCB: "lossless JPEG",
    0xCD: "hierarchical JPEG",
    0xCE: "hierarchical JPEG",
    0xCF: "hierarchical JPEG",
    0xF7: "JPEG-LS",
}
"""Names of the frame markers."""

_SCAN, _END, _EXIF_SEGMENT = 0xDA, 0xD9, 0xE1
_EXIF = b"Exif\0\0"
_CMYK = 4


@dataclass(frozen=True)
class _Frame:
    """Frame header of a file.

    Attributes:
        width: width in pixels.
        height: height in pixels.
        components: number of channels.
        progressive: True if the decoder must hold the coefficients of the whole image.
        exif: EXIF data, or None.
    """

    width: int
    height: int
    components: int
    progressive: bool
    exif: bytes | None


def decode_jpeg_file(data: bytes, options: ReadOptions) -> Radiograph:
    """Decode a JPEG file to gray pixels.

    Args:
        data: content of the whole file.
        options: facts that the file does not say; JPEG has 8 bits and needs none.

    Returns:
        The image; the pixels equal those of Pillow's ``convert("L")``.

    Raises:
        ImageError: the file is damaged, of another kind of JPEG, or not a radiograph.
    """
    frame = _read_frame(data)
    if frame.components not in (1, 3):
        mode = "CMYK" if frame.components == _CMYK else f"{frame.components} channels"
        raise ImageError(Reason.UNSUPPORTED_MODE, f"JPEG in mode {mode}; expected gray or RGB")
    _check_scans(data, frame)
    if frame.components == 1:
        return turn_upright(Radiograph(_decode(data, "GRAY")[..., 0], "gray8"), frame.exif)
    decoded = _decode(data, "RGB")
    strips = (decoded[top : top + STRIP_ROWS] for top in range(0, frame.height, STRIP_ROWS))
    return turn_upright(Radiograph(merge_channels(strips, frame.width, frame.height), "rgb8"), frame.exif)


def decode_gray(data: bytes) -> NDArray[np.uint8]:
    """Return the (H, W) levels of a gray JPEG that is part of another file.

    Raises:
        ImageError: it is damaged, or of another kind.
    """
    frame = _read_frame(data)
    _check_scans(data, frame)
    return _decode(data, "GRAY")[..., 0]


def _decode(data: bytes, colours: str) -> NDArray[np.uint8]:
    """Return the pixels, (H, W, 1 or 3) uint8."""
    try:
        decoded: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            data, colorspace=colours, fastdct=False, fastupsample=False, strict=True
        )
    except ValueError as error:
        raise ImageError(Reason.CORRUPT, f"cannot decode the {len(data)} bytes of the file: {error}") from error
    return decoded


def _check_scans(data: bytes, frame: _Frame) -> None:
    """Check the size of an image and the number of its scans before it is decoded."""
    check_size(frame.width, frame.height, frame.components * (2 if frame.progressive else 1))
    scans = data.count(b"\xff\xda")  # at least the scans: the pair cannot occur in the data of a scan
    if scans > MAX_SCANS or scans * frame.width * frame.height > MAX_SCANNED_PIXELS:
        raise ImageError(
            Reason.TOO_LARGE,
            f"{scans} scans of {frame.width}x{frame.height} pixels; expected at most {MAX_SCANS} scans and "
            f"{MAX_SCANNED_PIXELS} pixels in all scans",
        )


def _read_frame(data: bytes) -> _Frame:
    """Read the segments before the first scan.

    Raises:
        ImageError: no frame header is found, or it is of a kind that is not decoded.
    """
    exif: bytes | None = None
    for marker, content in _walk(data):
        if marker == _EXIF_SEGMENT and content.startswith(_EXIF) and exif is None:
            exif = content[len(_EXIF) :]
        if marker in _REFUSED:
            raise ImageError(
                Reason.UNSUPPORTED_FORMAT, f"{_REFUSED[marker]}; expected PNG, baseline or progressive JPEG"
            )
        if marker in _DECODED and len(content) >= 6:
            bits, components = content[0], content[5]
            if bits != 8:
                raise ImageError(Reason.UNSUPPORTED_FORMAT, f"{bits}-bit JPEG; expected PNG or 8-bit JPEG")
            height, width = int.from_bytes(content[1:3], "big"), int.from_bytes(content[3:5], "big")
            return _Frame(width, height, components, _DECODED[marker] == "progressive", exif)
    raise ImageError(Reason.CORRUPT, f"cannot read the image header; the file has {len(data)} bytes")


def _walk(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield marker and content of each segment before the first scan."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker in (_SCAN, _END):
            return
        yield marker, data[at + 4 : at + 2 + length]
        at += 2 + length
