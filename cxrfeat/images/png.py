"""Decode PNG files after checking the checksums of the chunks that hold pixels.

Source: W3C, Portable Network Graphics (PNG) Specification, third edition.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxrfeat.errors import ImageError
from cxrfeat.images.decoded_image import (
    STRIP_ROWS,
    Pixels,
    Radiograph,
    ReadOptions,
    check_size,
    merge_channels,
    spread_bits,
)
from cxrfeat.images.exif import MAX_BYTES, turn_upright
from cxrfeat.io.schema import Reason

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_CHANNELS = {"gray": 1, "rgb": 3, "palette": 1, "graya": 2, "rgba": 4}
_COLOUR_TYPES = {
    0: ("gray", (1, 2, 4, 8, 16)),
    2: ("rgb", (8, 16)),
    3: ("palette", (1, 2, 4, 8)),
    4: ("graya", (8, 16)),
    6: ("rgba", (8, 16)),
}
"""Colour type of the header → its name and legal bit depths."""

_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")


@dataclass(frozen=True)
class _Chunks:
    """Content of a PNG file.

    Attributes:
        pixels: the file with nothing but its header, palette and pixels.
        width: width in pixels.
        height: height in pixels.
        depth: bits per sample.
        colour: name of the colour type.
        exif: EXIF data, or None.
    """

    pixels: bytes
    width: int
    height: int
    depth: int
    colour: str
    exif: bytes | None


def decode_png_file(data: bytes, options: ReadOptions) -> Radiograph:
    """Decode a PNG file to gray pixels.

    Alpha is ignored, as in the RGB conversion of the usual training pipelines. Text, colour profiles, gamma and other
    frames are skipped unread.

    Args:
        data: content of the whole file.
        options: facts that the file does not say.

    Returns:
        The image; 8-bit pixels equal those of Pillow's ``convert("L")``.

    Raises:
        ImageError: the file is damaged, or not a radiograph.
    """
    chunks = _read_chunks(data)
    pixel_format = f"{chunks.colour}{chunks.depth}"
    check_size(chunks.width, chunks.height, _decoded_bytes(chunks))
    pixels = _decode_deep(chunks, options) if chunks.depth == 16 else _decode_bytes(chunks)
    return turn_upright(Radiograph(pixels, pixel_format), chunks.exif)


def _decode_bytes(chunks: _Chunks) -> Pixels:
    """Decode an image of up to 8 bits per sample."""
    with Image.open(io.BytesIO(chunks.pixels), formats=("PNG",)) as image:
        image.load()
        if chunks.colour in ("gray", "graya"):
            return np.asarray(image.convert("L"))
        return merge_channels(_convert_strips(image), chunks.width, chunks.height)


def _convert_strips(image: Image.Image) -> Iterator[NDArray[np.uint8]]:
    """Yield the rows of an image as RGB, (h, W, 3) uint8 each."""
    for top in range(0, image.height, STRIP_ROWS):
        strip = image.crop((0, top, image.width, min(top + STRIP_ROWS, image.height)))
        yield np.asarray(strip.convert("RGB"))


def _decode_deep(chunks: _Chunks, options: ReadOptions) -> Pixels:
    """Decode an image of 16 bits per sample.

    Pillow gives all 16 bits of gray images alone; of others it is asked for the high and the low bytes in turn.
    """
    if chunks.colour == "gray":
        return spread_bits(_load(chunks.pixels).astype(np.uint16), options.bits_stored)
    if chunks.colour == "graya":
        # PNG filters bytes, and the four bytes of a pixel of 16-bit gray and alpha are those of a pixel of 8-bit RGBA.
        pairs = _load(_with_header(chunks, depth=8, colour_type=6))  # (H, W, 4) uint8
        return spread_bits(_join_bytes(pairs[..., 0], pairs[..., 1]), options.bits_stored)
    mode = chunks.colour.upper()
    samples = _join_bytes(
        _load(chunks.pixels, f"{mode};16B")[..., :3], _load(chunks.pixels, f"{mode};16L")[..., :3]
    )  # (H, W, 3) uint16
    samples = spread_bits(samples, options.bits_stored)
    strips = (samples[top : top + STRIP_ROWS] for top in range(0, chunks.height, STRIP_ROWS))
    return merge_channels(strips, chunks.width, chunks.height)


def _load(data: bytes, raw_mode: str | None = None) -> NDArray[np.uint8]:
    """Return the samples of a file as Pillow decodes them, or as another raw mode of Pillow reads their bytes."""
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        if raw_mode is not None:
            image.tile = [tile._replace(args=raw_mode) for tile in image.tile]
        image.load()
        return np.asarray(image)


def _join_bytes(high: NDArray[np.uint8], low: NDArray[np.uint8]) -> NDArray[np.uint16]:
    joined = high.astype(np.uint16)
    joined <<= 8
    joined |= low
    return joined


def _with_header(chunks: _Chunks, depth: int, colour_type: int) -> bytes:
    """Return the file with another bit depth and colour type."""
    at = len(SIGNATURE) + 8
    content = chunks.pixels[at : at + 8] + bytes([depth, colour_type]) + chunks.pixels[at + 10 : at + 13]
    checksum = zlib.crc32(b"IHDR" + content).to_bytes(4, "big")
    return chunks.pixels[:at] + content + checksum + chunks.pixels[at + 17 :]


def _decoded_bytes(chunks: _Chunks) -> int:
    """Return the bytes per pixel of the decoded samples; Pillow stores three channels in four bytes."""
    channels = _CHANNELS[chunks.colour]
    return channels * 2 if chunks.depth == 16 else (4 if channels > 1 else 1)


def _read_chunks(data: bytes) -> _Chunks:
    """Check the chunks of a file. A damaged chunk that holds no pixels condemns nothing.

    Raises:
        ImageError: a chunk with pixels is damaged, missing or out of order.
    """
    kept = [memoryview(SIGNATURE)]
    exif: bytes | None = None
    header: tuple[int, int, int, str] | None = None
    previous = kind = b""
    for kind, content, whole in _walk(data):
        if kind == b"IHDR" and header is None and not previous:
            header = _read_header(content)
        elif kind == b"IHDR" or header is None:
            raise ImageError(Reason.CORRUPT, f"chunk {kind!r} where the header was expected")
        elif kind == b"IDAT" and previous != b"IDAT" and previous not in (b"IHDR", b"PLTE"):
            raise ImageError(Reason.CORRUPT, "the pixels are interrupted by another chunk")
        if kind in _CRITICAL:
            kept.append(whole)
        elif kind == b"eXIf" and len(content) <= MAX_BYTES:
            exif = bytes(content)
        if kind in _CRITICAL or previous == b"IDAT":
            previous = kind
    if header is None or kind != b"IEND":
        raise ImageError(Reason.CORRUPT, f"the file of {len(data)} bytes ends before its last chunk")
    width, height, depth, colour = header
    if colour == "palette" and not any(bytes(part[4:8]) == b"PLTE" for part in kept):
        raise ImageError(Reason.CORRUPT, "the palette is missing")
    complete = sum(map(len, kept)) == len(data)  # nothing to leave out: no copy of a large file
    return _Chunks(data if complete else b"".join(kept), width, height, depth, colour, exif)


def _walk(data: bytes) -> Iterator[tuple[bytes, memoryview, memoryview]]:
    """Yield type, content and bytes of each chunk up to the last; the checksums of critical ones are right."""
    view = memoryview(data)
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data) or not kind.isalpha():
            raise ImageError(
                Reason.CORRUPT, f"chunk {kind!r} at byte {at} claims {length} bytes; the file has {len(data)}"
            )
        critical = not kind[0] & 0x20
        if critical and kind not in _CRITICAL:
            raise ImageError(Reason.CORRUPT, f"unknown chunk {kind!r} at byte {at}")
        if critical and zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise ImageError(Reason.CORRUPT, f"wrong checksum of chunk {kind!r} at byte {at}")
        yield kind, view[at + 8 : end - 4], view[at:end]
        if kind == b"IEND":
            return
        at = end


def _read_header(content: memoryview) -> tuple[int, int, int, str]:
    """Return width, height, bit depth and name of the colour type.

    Raises:
        ImageError: the header is invalid.
    """
    if len(content) != 13:
        raise ImageError(Reason.CORRUPT, f"header of {len(content)} bytes; expected 13")
    width, height, depth, colour_type, compression, filtering, interlace = struct.unpack(">IIBBBBB", content)
    name, depths = _COLOUR_TYPES.get(colour_type, ("", ()))
    if depth not in depths or compression or filtering or interlace > 1:
        raise ImageError(Reason.CORRUPT, f"invalid header: {content.hex()}")
    return width, height, depth, name
