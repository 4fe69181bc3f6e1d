"""A table of image files of every kind, with the verdict on each and pixels from an independent decoder."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from cxrfeat.images.decoded_image import DEFAULT_OPTIONS, Pixels, ReadOptions
from cxrfeat.io.schema import Reason
from tests import fakes
from tests.fakes import chunk, encode, raw_png

GRAY = fakes.gray_image(64, 80)
DEEP = (GRAY.astype(np.uint16) * 257)[::-1].copy()
WIDE = fakes.gray_image(40, 96, seed=3)
SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Case:
    """An image file and the verdict on it.

    Attributes:
        name: kind of file.
        data: content of the file.
        pixels: expected (H, W) gray levels; None if the file is refused.
        verdict: expected pixel format, or the reason of the refusal.
        options: facts that the file does not say.
        tolerance: largest difference of a level, for decoders that round differently.
    """

    name: str
    data: bytes
    verdict: str
    pixels: Pixels | None = None
    options: ReadOptions = field(default=DEFAULT_OPTIONS)
    tolerance: int = 0


def opencv(data: bytes) -> Pixels:
    """Return the gray levels of a file by OpenCV, at its own depth, without its EXIF orientation."""
    content = np.frombuffer(data, np.uint8)
    made = cv2.imdecode(content, cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    assert made is not None
    levels = made if made.ndim == 2 else made[..., 1]  # BGR or BGRA of gray content: green is the level
    return levels.astype(np.uint16) if made.dtype == np.uint16 else levels.astype(np.uint8)


def deep_png(samples: NDArray[np.uint16], colour: int) -> bytes:
    """Return a 16-bit PNG of (H, W) or (H, W, C) samples, written byte by byte."""
    height, width = samples.shape[:2]
    lines = samples.astype(">u2").reshape(height, -1).tobytes()
    stride = len(lines) // height
    rows = b"".join(b"\0" + lines[row * stride : (row + 1) * stride] for row in range(height))
    return raw_png(width, height, depth=16, colour=colour, rows=rows)


def channels(samples: NDArray[np.uint16], count: int) -> NDArray[np.uint16]:
    """Repeat gray samples as (H, W, count); a last channel of 2 or 4 is a varying alpha."""
    made = np.repeat(samples[..., None], count, axis=2)
    if count in (2, 4):
        made[..., -1] = np.arange(made.shape[1]) * 500
    return made


def low_depth_png(depth: int, colour: int = 0) -> bytes:
    """Return a PNG with 2 or 4 bits per sample, gray or with a gray palette."""
    levels = GRAY[:, :80] >> (8 - depth)
    per_byte = 8 // depth
    packed = np.zeros((64, 80 // per_byte), np.uint8)
    for index in range(per_byte):
        packed |= levels[:, index::per_byte] << (8 - depth * (index + 1))
    rows = b"".join(b"\0" + bytes(row) for row in packed)
    steps = 255 // (2**depth - 1)
    palette = [chunk(b"PLTE", bytes(step * steps for step in range(2**depth) for _ in range(3)))] if colour == 3 else []
    return raw_png(80, 64, depth=depth, colour=colour, rows=rows, extra=palette)


def with_chunks(data: bytes, *extra: bytes, before: bytes = b"IDAT") -> bytes:
    """Insert whole chunks before the first chunk of a type."""
    at = data.index(before) - 4
    return data[:at] + b"".join(extra) + data[at:]


def broken(whole: bytes) -> bytes:
    """Return a chunk with a wrong checksum."""
    return whole[:-1] + bytes([whole[-1] ^ 1])


def with_exif(orientation: int, file_format: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(Image.fromarray(WIDE), file_format, exif=exif.tobytes())


def upright(orientation: int, data: bytes) -> Pixels:
    """Turn what OpenCV reads by the definition of the tag: which side of the scene the first row and column are."""
    pixels = opencv(data)
    sides = {2: "tr", 3: "br", 4: "bl", 5: "lt", 6: "rt", 7: "rb", 8: "lb"}
    first_row, first_column = sides[orientation][0], sides[orientation][1]
    if first_row in "lr":
        pixels = pixels.T
        first_row, first_column = first_column, first_row
    return pixels[:: -1 if first_row == "b" else 1, :: -1 if first_column == "r" else 1]


def jpeg(image: Image.Image, **options: Any) -> bytes:
    return encode(image, "JPEG", **options)


def patched_frame(data: bytes, marker: int | None = None, bits: int | None = None) -> bytes:
    """Replace the frame marker or the sample precision of a JPEG."""
    at = data.index(b"\xff\xc0")
    made = bytearray(data)
    if marker is not None:
        made[at + 1] = marker
    if bits is not None:
        made[at + 4] = bits
    return bytes(made)


def scans(count: int) -> bytes:
    """Return a progressive JPEG whose last scan is repeated."""
    data = jpeg(Image.fromarray(GRAY), progressive=True)
    at = data.rindex(b"\xff\xda")
    return data[:at] + data[at:-2] * count + data[-2:]


BOMB = zlib.compress(bytes(4 * 1024**2))
PNG_DATA = fakes.png(GRAY)
JPEG_DATA = jpeg(Image.fromarray(GRAY), quality=90)
RGB_JPEG = jpeg(Image.fromarray(GRAY).convert("RGB"), quality=95, subsampling=0)
TEXT = PngImagePlugin.PngInfo()
TEXT.add_text("Comment", "a" * 70_000)
EIGHTH = np.full((64, 80), 8192, np.uint16)


def _photo() -> Image.Image:
    pixels = np.repeat(GRAY[:, :, None] // 2, 3, axis=2)
    pixels[:, :, 0] += 100
    return Image.fromarray(pixels)


def _spread(samples: NDArray[np.uint16], bits: int) -> NDArray[np.uint16]:
    spread: NDArray[np.uint16] = np.rint(samples / (2**bits - 1) * 65535).astype(np.uint16)
    return spread


def _read(name: str, data: bytes, verdict: str, tolerance: int = 0) -> Case:
    return Case(name, data, verdict, opencv(data), tolerance=tolerance)


def _legal() -> list[Case]:
    wrapped = [
        Case(kind, data := write(GRAY), pixel_format, opencv(data), tolerance=int("rgb8 jpeg" in kind))
        for kind, (pixel_format, write) in fakes.LEGAL.items()
        if pixel_format not in ("palette8", "rgba8", "graya8")
    ]
    exact = [
        Case("rgba8 png", fakes.LEGAL["rgba8 png"][1](GRAY), "rgba8", GRAY),
        Case("graya8 png", fakes.LEGAL["graya8 png"][1](GRAY), "graya8", GRAY),
        Case("palette8 png", fakes.LEGAL["palette8 png"][1](GRAY), "palette8", GRAY),
        Case("palette with alpha", encode(fakes.with_palette(GRAY), "PNG", transparency=bytes(256)), "palette8", GRAY),
        Case("palette with one clear index", encode(fakes.with_palette(GRAY), "PNG", transparency=7), "palette8", GRAY),
        Case("2-bit gray", low_depth_png(2), "gray2", (GRAY // 64 * 85).astype(np.uint8)),
        Case("4-bit gray", low_depth_png(4), "gray4", (GRAY // 16 * 17).astype(np.uint8)),
        Case("2-bit palette", low_depth_png(2, 3), "palette2", (GRAY // 64 * 85).astype(np.uint8)),
        Case("4-bit palette", low_depth_png(4, 3), "palette4", (GRAY // 16 * 17).astype(np.uint8)),
        Case("16-bit gray", deep_png(DEEP, 0), "gray16", DEEP),
        Case("16-bit gray + alpha", deep_png(channels(DEEP, 2), 4), "graya16", DEEP),
        Case("16-bit RGB", deep_png(channels(DEEP, 3), 2), "rgb16", DEEP),
        Case("16-bit RGBA", deep_png(channels(DEEP, 4), 6), "rgba16", DEEP),
        Case("an eighth of full scale", deep_png(EIGHTH, 0), "gray16", EIGHTH),
        Case("constant 8-bit black", fakes.png(np.zeros((40, 40), np.uint8)), "gray8", np.zeros((40, 40), np.uint8)),
        Case("smallest", fakes.png(GRAY[:32, :32].copy()), "gray8", GRAY[:32, :32]),
        Case("clear gray level", with_chunks(PNG_DATA, chunk(b"tRNS", b"\0\7")), "gray8", GRAY),
    ]
    return wrapped + exact


def _bits() -> list[Case]:
    twelve, ten = DEEP // np.uint16(16), DEEP // np.uint16(64)
    cases = []
    for name, colour, count in (("gray", 0, 1), ("gray + alpha", 4, 2), ("RGB", 2, 3), ("RGBA", 6, 4)):
        for bits, samples in ((12, twelve), (10, ten)):
            data = deep_png(samples if count == 1 else channels(samples, count), colour)
            kind = {1: "gray16", 2: "graya16", 3: "rgb16", 4: "rgba16"}[count]
            cases.append(Case(f"{bits} bits in 16-bit {name}", data, Reason.LOW_RANGE))
            declared = ReadOptions(bits_stored=bits)
            cases.append(Case(f"{bits} declared bits in {name}", data, kind, _spread(samples, bits), declared))
    sixteen = ReadOptions(bits_stored=16)
    return [
        *cases,
        Case("below an eighth of full scale", deep_png(EIGHTH - np.uint16(1), 0), Reason.LOW_RANGE),
        Case("16 declared bits of a dark image", deep_png(EIGHTH // 4, 0), "gray16", EIGHTH // 4, sixteen),
        Case("more than the declared bits", deep_png(DEEP, 0), Reason.BEYOND_BITS, options=ReadOptions(bits_stored=12)),
        Case("declared bits leave 8-bit files alone", PNG_DATA, "gray8", GRAY, ReadOptions(bits_stored=12)),
    ]


def _harmless() -> list[Case]:
    """Files with notes that are damaged, enormous or illegal: the pixels are whole."""
    notes: dict[str, bytes] = {
        "4 MiB of zTXt": chunk(b"zTXt", b"k\0\0" + BOMB),
        "4 MiB of iTXt": chunk(b"iTXt", b"k\0\1\0\0\0" + BOMB),
        "4 MiB of iCCP": chunk(b"iCCP", b"k\0\0" + BOMB),
        "wrong checksum of tEXt": broken(chunk(b"tEXt", b"Comment\0hello")),
        "wrong checksum of pHYs": broken(chunk(b"pHYs", bytes(9))),
        "wrong checksum of eXIf": broken(chunk(b"eXIf", b"MM\0*")),
        "tRNS cut short": chunk(b"tRNS", b""),
        "cHRM cut short": chunk(b"cHRM", b""),
        "pHYs cut short": chunk(b"pHYs", b""),
        "gamma": chunk(b"gAMA", struct.pack(">I", 45455)),
        "12 significant bits": chunk(b"sBIT", b"\6"),
        "acTL cut short": chunk(b"acTL", b""),
        "an animation": chunk(b"acTL", struct.pack(">II", 2, 0)) + chunk(b"fcTL", bytes(26)),
        "EXIF that is text": chunk(b"eXIf", b"not EXIF"),
        "EXIF of 70,000 bytes": chunk(b"eXIf", bytes(70_000)),
        "a private chunk": chunk(b"prVt", b"anything"),
    }
    cases = [Case(name, with_chunks(PNG_DATA, note), "gray8", GRAY) for name, note in notes.items()]
    return [
        *cases,
        Case("70,000 bytes of text", encode(Image.fromarray(GRAY), "PNG", pnginfo=TEXT), "gray8", GRAY),
        Case(
            "wrong checksum after the pixels",
            with_chunks(PNG_DATA, broken(chunk(b"tEXt", b"a\0b")), before=b"IEND"),
            "gray8",
            GRAY,
        ),
        Case("bytes after the last chunk", PNG_DATA + bytes(99), "gray8", GRAY),
        _read("JPEG comment", jpeg(Image.fromarray(GRAY), comment=b"x" * 60_000), "gray8"),
        _read("JPEG with a profile", jpeg(Image.fromarray(GRAY), icc_profile=bytes(100_000)), "gray8"),
        _read("JPEG with bytes after its end", JPEG_DATA + bytes(99), "gray8"),
        _read("JPEG with damaged EXIF", jpeg(Image.fromarray(GRAY), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"), "gray8"),
        _read("JPEG with restart markers", jpeg(Image.fromarray(GRAY), restart_marker_rows=1), "gray8"),
        _read("RGB JPEG without subsampling", RGB_JPEG, "rgb8", 1),
        _read("optimised JPEG", jpeg(Image.fromarray(GRAY), optimize=True), "gray8"),
    ]


def _turned() -> list[Case]:
    cases = []
    for file_format in ("PNG", "JPEG"):
        for orientation in range(2, 9):
            data = with_exif(orientation, file_format)
            name = f"{file_format} of orientation {orientation}"
            cases.append(Case(name, data, f"gray8-exif{orientation}", upright(orientation, data)))
        for orientation in (0, 1, 9):
            cases.append(
                _read(f"{file_format} of orientation {orientation}", with_exif(orientation, file_format), "gray8")
            )
    return cases


def _refused() -> list[Case]:
    image = Image.fromarray(GRAY)
    interrupted = encode(image, "PNG")
    at = interrupted.index(b"IDAT") - 4
    length = int.from_bytes(interrupted[at : at + 4], "big")
    pixels = interrupted[at + 8 : at + 8 + length]
    large = jpeg(Image.fromarray(fakes.gray_image(256, 256)), quality=90)
    halves = [chunk(b"IDAT", pixels[:300]), chunk(b"IDAT", pixels[300:])]
    head, tail = interrupted[:at], interrupted[at + 12 + length :]
    rows: dict[str, tuple[bytes, str]] = {
        "nothing": (b"", Reason.EMPTY),
        "text": (b"not an image at all\n", Reason.NOT_PNG_OR_JPEG),
        "zeros": (bytes(1000), Reason.NOT_PNG_OR_JPEG),
        "only a signature": (SIGNATURE, Reason.CORRUPT),
        "one pixel": (fakes.png(GRAY[:1, :1].copy()), Reason.TOO_SMALL),
        "narrow": (fakes.png(GRAY[:40, :31].copy()), Reason.TOO_SMALL),
        "low": (fakes.png(GRAY[:31, :40].copy()), Reason.TOO_SMALL),
        "small JPEG": (jpeg(Image.fromarray(GRAY[:31].copy())), Reason.TOO_SMALL),
        "colour photo as JPEG": (jpeg(_photo()), Reason.COLOUR),
        "colour photo as PNG": (encode(_photo(), "PNG"), Reason.COLOUR),
        "16-bit colour": (deep_png(np.stack([DEEP, DEEP // 2, DEEP], axis=2), 2), Reason.COLOUR),
        "CMYK": (jpeg(image.convert("CMYK")), Reason.UNSUPPORTED_MODE),
        "GIF": (encode(image, "GIF"), Reason.UNSUPPORTED_FORMAT),
        "TIFF": (encode(image, "TIFF"), Reason.UNSUPPORTED_FORMAT),
        "BMP": (encode(image, "BMP"), Reason.UNSUPPORTED_FORMAT),
        "WebP": (encode(image, "WEBP"), Reason.UNSUPPORTED_FORMAT),
        "JPEG 2000": (encode(image, "JPEG2000"), Reason.UNSUPPORTED_FORMAT),
        "JPEG 2000 codestream": (encode(image, "JPEG2000", no_jp2=True), Reason.UNSUPPORTED_FORMAT),
        "JPEG-LS": (patched_frame(JPEG_DATA, 0xF7), Reason.UNSUPPORTED_FORMAT),
        "lossless JPEG": (patched_frame(JPEG_DATA, 0xC3), Reason.UNSUPPORTED_FORMAT),
        "arithmetic-coded JPEG": (patched_frame(JPEG_DATA, 0xC9), Reason.UNSUPPORTED_FORMAT),
        "12-bit JPEG": (patched_frame(JPEG_DATA, 0xC1, 12), Reason.UNSUPPORTED_FORMAT),
        "bomb": (raw_png(30_000, 30_000), Reason.TOO_LARGE),
        "one row too many": (raw_png(8_000, 8_001), Reason.TOO_LARGE),
        "too many bytes of RGBA": (raw_png(8_000, 8_000, depth=16, colour=6), Reason.TOO_LARGE),
        "3,000 scans": (scans(3_000), Reason.TOO_LARGE),
        "fewer rows than promised": (raw_png(64, 64, rows=bytes(65 * 63 + 9)), Reason.CORRUPT),
        "wrong checksum of the pixels": (head + broken(halves[0]) + halves[1] + tail, Reason.CORRUPT),
        "wrong checksum of the header": (
            raw_png(64, 64, rows=bytes(65 * 64)).replace(b"\0\0\0@\0\0\0@", b"\0\0\0@\0\0\0A"),
            Reason.CORRUPT,
        ),
        "pixels in wrong order": (head + halves[1] + halves[0] + tail, Reason.CORRUPT),
        "half of the pixels": (head + halves[0] + tail, Reason.CORRUPT),
        "text between the pixels": (head + halves[0] + chunk(b"tEXt", b"a\0b") + halves[1] + tail, Reason.CORRUPT),
        "no end": (PNG_DATA[:-12], Reason.CORRUPT),
        "two headers": (with_chunks(PNG_DATA, PNG_DATA[8:33]), Reason.CORRUPT),
        "no header": (SIGNATURE + PNG_DATA[33:], Reason.CORRUPT),
        "header cut short": (SIGNATURE + chunk(b"IHDR", bytes(5)) + bytes(20), Reason.CORRUPT),
        "impossible depth": (raw_png(64, 64, depth=3, rows=bytes(65 * 64)), Reason.CORRUPT),
        "palette is missing": (raw_png(64, 64, colour=3, rows=bytes(65 * 64)), Reason.CORRUPT),
        "unknown critical chunk": (with_chunks(PNG_DATA, chunk(b"ABCD", b"")), Reason.CORRUPT),
        "chunk beyond the end": (with_chunks(PNG_DATA, struct.pack(">I", 10**8) + b"tEXt"), Reason.CORRUPT),
        "wrong sum of the pixels": (
            head + chunk(b"IDAT", pixels[:-1] + bytes([pixels[-1] ^ 1])) + tail,
            Reason.CORRUPT,
        ),
        "half a JPEG with an end": (JPEG_DATA[: len(JPEG_DATA) // 2] + b"\xff\xd9", Reason.CORRUPT),
        "half a JPEG": (JPEG_DATA[: len(JPEG_DATA) // 2], Reason.CORRUPT),
        "JPEG without an end": (JPEG_DATA[:-2], Reason.CORRUPT),
        "hole in a JPEG": (large[:9000] + bytes(4096) + large[9000 + 4096 :], Reason.CORRUPT),
        "JPEG of a header": (b"\xff\xd8\xff\xe0\0\x10JFIF", Reason.CORRUPT),
        "JPEG without a frame": (b"\xff\xd8\xff\xda\0\x08\1\1\0\0\x3f\0", Reason.CORRUPT),
    }
    return [Case(name, data, reason) for name, (data, reason) in rows.items()]


CASES = [*_legal(), *_bits(), *_harmless(), *_turned(), *_refused()]
"""Every case; the names are unique."""


Damage = Callable[[bytearray, np.random.Generator], object]

DAMAGES: dict[str, Damage] = {
    "one bit": lambda data, chance: data.__setitem__(
        at := int(chance.integers(len(data))), data[at] ^ 1 << int(chance.integers(8))
    ),
    "one byte": lambda data, chance: data.__setitem__(int(chance.integers(len(data))), int(chance.integers(256))),
    "512 zeros": lambda data, chance: data.__setitem__(
        slice(at := int(chance.integers(len(data))), at + 512), bytes(len(data[at : at + 512]))
    ),
    "4,096 zeros": lambda data, chance: data.__setitem__(
        slice(at := int(chance.integers(len(data))), at + 4096), bytes(len(data[at : at + 4096]))
    ),
}
"""Single damages to a file, in place."""
