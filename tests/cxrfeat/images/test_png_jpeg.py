"""The decoder returns the gray levels of the file or raises ImageError with a reason, and nothing else."""

from __future__ import annotations

import io
import random
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image, ImageFile

from cxrfeat.errors import ImageError
from cxrfeat.images.png_jpeg import MAX_PIXELS, decode
from cxrfeat.io.schema import Reason
from tests import fakes

IMAGE = fakes.gray_image(64, 80)


def refusal(data: bytes) -> ImageError:
    with pytest.raises(ImageError) as refused:
        decode(data)
    return refused.value


@pytest.mark.parametrize("kind", fakes.LEGAL)
def test_every_legal_kind_decodes_to_what_pillow_shows(kind: str) -> None:
    """Gray, gray + alpha, RGB, RGBA and palette, PNG and JPEG: the pixels are those of Pillow's convert("L")."""
    pixel_format, write = fakes.LEGAL[kind]
    data = write(IMAGE)
    radiograph = decode(data)
    assert radiograph.pixel_format == pixel_format
    assert radiograph.pixels.shape == IMAGE.shape
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image) if pixel_format == "gray16" else np.asarray(image.convert("L"))
    assert radiograph.pixels.dtype == expected.dtype
    np.testing.assert_array_equal(radiograph.pixels, expected)


@pytest.mark.parametrize("kind", [kind for kind in fakes.LEGAL if kind.endswith("8 png")])
def test_gray_levels_come_back_untouched(kind: str) -> None:
    """However 8-bit gray is wrapped into a PNG, alpha or not, every level is the one that was written."""
    np.testing.assert_array_equal(decode(fakes.LEGAL[kind][1](IMAGE)).pixels, IMAGE)


def test_sixteen_bits_come_back_untouched() -> None:
    """A 16-bit image keeps all of its levels, to full scale."""
    deep = np.linspace(0, 65535, 64 * 80).reshape(64, 80).astype(np.uint16)
    pixels = decode(fakes.encode(Image.fromarray(deep), "PNG")).pixels
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels, deep)


def test_one_bit_images_are_black_and_white() -> None:
    """A 1-bit picture uses the full scale of 8 bits."""
    np.testing.assert_array_equal(decode(fakes.LEGAL["gray1 png"][1](IMAGE)).pixels, (IMAGE > 127) * 255)


def test_alpha_is_ignored() -> None:
    """RGBA decodes as the same file without its alpha."""
    image = fakes.with_alpha(IMAGE)
    rgba, rgb = (decode(fakes.encode(picture, "PNG")).pixels for picture in (image, image.convert("RGB")))
    np.testing.assert_array_equal(rgba, rgb)


def test_a_palette_with_transparency_is_legal() -> None:
    """Transparency of a palette is ignored like any alpha, without a warning."""
    data = fakes.encode(fakes.with_palette(IMAGE), "PNG", transparency=bytes(range(256)))
    np.testing.assert_array_equal(decode(data).pixels, IMAGE)


@pytest.mark.parametrize("value", [0, 7, 255])
def test_a_constant_image_is_legal(value: int) -> None:
    """An image without contrast is legal at any gray level."""
    constant = np.full((40, 40), value, np.uint8)
    np.testing.assert_array_equal(decode(fakes.png(constant)).pixels, constant)


def photo(coloured: float) -> Image.Image:
    """Return a 100 × 100 image whose upper part, of the given share, is red."""
    pixels = np.repeat(fakes.gray_image(100, 100)[:, :, None] // 2, 3, axis=2)
    pixels[: round(coloured * 100), :, 0] += 100
    return Image.fromarray(pixels)


def test_a_small_coloured_mark_is_legal() -> None:
    """An image with a coloured mark on one percent of its pixels is accepted and converted by luma."""
    image = photo(0.01)
    np.testing.assert_array_equal(decode(fakes.encode(image, "PNG")).pixels, np.asarray(image.convert("L")))


def test_traces_of_colour_are_legal() -> None:
    """Channels of a gray pixel may differ by 24 levels, as JPEG makes them, and not by 25."""
    for difference, legal in ((24, True), (25, False)):
        pixels = np.full((64, 64, 3), 100, np.uint8)
        pixels[..., 1] += difference
        data = fakes.encode(Image.fromarray(pixels), "PNG")
        assert (decode(data).pixel_format if legal else refusal(data).reason) == ("rgb8" if legal else Reason.COLOUR)


def test_a_colour_palette_is_refused() -> None:
    """A palette can hide colour: its colours count, not its indices."""
    image = Image.fromarray(IMAGE).convert("P")
    image.putpalette([level for index in range(256) for level in (index, 255 - index, 0)])
    assert refusal(fakes.encode(image, "PNG")).reason == Reason.COLOUR


def written(file_format: str, mode: str = "L") -> bytes:
    return fakes.encode(fakes.as_mode(mode)(IMAGE), file_format)


REFUSED: list[tuple[str, bytes, Reason, str]] = [
    ("nothing", b"", Reason.EMPTY, "0 bytes"),
    ("text", b"not an image at all\n", Reason.NOT_PNG_OR_JPEG, "b'not an image at '"),
    ("zeros", bytes(1000), Reason.NOT_PNG_OR_JPEG, r"b'\x00"),
    ("only a signature", b"\x89PNG\r\n\x1a\n", Reason.CORRUPT, "the file has 8 bytes"),
    ("one pixel", fakes.png(fakes.gray_image(1, 1)), Reason.TOO_SMALL, "1x1 pixels"),
    ("narrow", fakes.png(fakes.gray_image(40, 31)), Reason.TOO_SMALL, "31x40 pixels"),
    ("low", fakes.png(fakes.gray_image(31, 40)), Reason.TOO_SMALL, "40x31 pixels"),
    ("colour photo", fakes.encode(photo(0.5), "JPEG"), Reason.COLOUR, "coloured"),
    ("two percent colour", fakes.encode(photo(0.02), "PNG"), Reason.COLOUR, "2.0% of the pixels"),
    ("cmyk", written("JPEG", "CMYK"), Reason.UNSUPPORTED_MODE, "JPEG in mode CMYK"),
    ("gif", written("GIF"), Reason.NOT_PNG_OR_JPEG, "neither PNG nor JPEG"),
    ("tiff", written("TIFF"), Reason.NOT_PNG_OR_JPEG, "neither PNG nor JPEG"),
    ("bmp", written("BMP"), Reason.NOT_PNG_OR_JPEG, "neither PNG nor JPEG"),
    ("webp", written("WEBP"), Reason.NOT_PNG_OR_JPEG, "neither PNG nor JPEG"),
    ("bomb", fakes.raw_png(30_000, 30_000), Reason.TOO_LARGE, "900000000 pixels"),
    ("large enough to warn", fakes.raw_png(9_500, 9_500), Reason.TOO_LARGE, "90250000 pixels"),
    ("larger than any X-ray", fakes.raw_png(9_000, 9_000), Reason.TOO_LARGE, "9000x9000 pixels"),
    ("one row too many", fakes.raw_png(8_000, 8_001), Reason.TOO_LARGE, "8000x8001 pixels"),
    ("fewer rows than promised", fakes.raw_png(64, 64, rows=bytes(65 * 63 + 9)), Reason.CORRUPT, "cannot decode the"),
]


@pytest.mark.parametrize(("data", "reason", "said"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_invalid_files_are_rejected_with_their_reason(data: bytes, reason: Reason, said: str) -> None:
    """Each refusal has a reason code for the summary, and a message with the actual value."""
    error = refusal(data)
    assert error.reason == reason
    assert said in str(error)


def test_smallest_and_largest_images_are_legal() -> None:
    """32 pixels per side are enough, and the header check accepts exactly MAX_PIXELS."""
    assert decode(fakes.png(fakes.gray_image(32, 32))).pixels.shape == (32, 32)
    assert MAX_PIXELS == 8_000 * 8_000
    assert refusal(fakes.raw_png(8_000, 8_000)).reason == Reason.CORRUPT


@pytest.mark.parametrize("side", [30_000, 10_000, 9_000])
def test_a_bomb_is_refused_before_its_pixels_are_made(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file whose header declares too many pixels is rejected without decoding, so it costs no memory."""
    loaded: list[Image.Image] = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", loaded.append)
    assert refusal(fakes.raw_png(side, side, rows=bytes(100_000))).reason == Reason.TOO_LARGE
    assert loaded == []


@pytest.mark.parametrize("kind", ["gray8 png", "gray16 png", "rgba8 png", "palette8 png", "gray8 jpeg", "rgb8 jpeg"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_truncated_files_are_refused(kind: str, kept: float) -> None:
    """A truncated file is never decoded to an image with a gray remainder."""
    data = fakes.LEGAL[kind][1](IMAGE)
    assert refusal(data[: int(len(data) * kept)]).reason in (Reason.CORRUPT, Reason.NOT_PNG_OR_JPEG)


def test_a_png_is_whole_or_refused_at_every_length() -> None:
    """A truncated PNG is rejected or shows the whole image: only data after the pixels may be missing."""
    data = fakes.png(fakes.gray_image(32, 32))
    whole = decode(data).pixels
    for length in range(len(data)):
        try:
            np.testing.assert_array_equal(decode(data[:length]).pixels, whole)
        except ImageError as error:
            assert error.reason in (Reason.EMPTY, Reason.CORRUPT, Reason.NOT_PNG_OR_JPEG)


ROWS = bytes(65 * 64)
BOMB = zlib.compress(bytes(2 * 1024**2))
ANIMATED = fakes.chunk(b"acTL", struct.pack(">II", 2, 0))

DAMAGED: dict[str, bytes] = {
    "IHDR cut short": b"\x89PNG\r\n\x1a\n" + fakes.chunk(b"IHDR", bytes(5)) + bytes(20),
    "tRNS cut short": fakes.raw_png(64, 64, rows=ROWS, extra=[fakes.chunk(b"tRNS", b"")]),
    "cHRM cut short": fakes.raw_png(64, 64, rows=ROWS, extra=[fakes.chunk(b"cHRM", b"")]),
    "pHYs cut short": fakes.raw_png(64, 64, rows=ROWS, extra=[fakes.chunk(b"pHYs", b"")]),
    "text that unpacks to 2 MiB": fakes.raw_png(64, 64, rows=ROWS, extra=[fakes.chunk(b"zTXt", b"k\0\0" + BOMB)]),
    "profile that unpacks to 2 MiB": fakes.raw_png(64, 64, rows=ROWS, extra=[fakes.chunk(b"iCCP", b"k\0\0" + BOMB)]),
    "acTL cut short": fakes.raw_png(64, 64, rows=ROWS, extra=[fakes.chunk(b"acTL", b"")]),
    "fcTL cut short": fakes.raw_png(64, 64, rows=ROWS, extra=[ANIMATED, fakes.chunk(b"fcTL", b"")]),
    "frame outside the picture": fakes.raw_png(64, 64, rows=ROWS, extra=[ANIMATED, fakes.chunk(b"fcTL", bytes(26))]),
    "text that begins like a PPM": b"P5 is a ward\n",
    "text that begins like an XBM": b"#define im_width many\n#define im_height more\n",
    "DDS of an unknown kind": b"DDS " + struct.pack("<I", 124) + bytes(120),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_makes_pillow_raise_is_in_quarantine(name: str) -> None:
    """One damaged or hostile file is a quarantined row, whatever Pillow raises over it, and never a failed job."""
    assert refusal(DAMAGED[name]).reason in (Reason.CORRUPT, Reason.NOT_PNG_OR_JPEG)


Mutation = Callable[[bytearray, random.Random], object]

MUTATIONS: tuple[Mutation, ...] = (
    lambda data, chance: data.__setitem__(chance.randrange(len(data)), chance.randrange(256)),
    lambda data, chance: data.__setitem__(chance.randrange(min(len(data), 64)), chance.choice((0, 1, 127, 128, 255))),
    lambda data, chance: data.__delitem__(slice(at := chance.randrange(len(data)), at + chance.randrange(1, 9))),
    lambda data, chance: data.__setitem__(slice(at := chance.randrange(len(data)), at), chance.randbytes(4)),
    lambda data, chance: data.__delitem__(slice(chance.randrange(1, len(data)), None)),
)


def mutants(count: int, seed: int) -> Iterator[bytes]:
    """Yield damaged copies of legal files; most PNGs get valid checksums again so that the decoder is tested too."""
    chance = random.Random(seed)
    originals = [write(fakes.gray_image(64, 64)) for _, write in fakes.LEGAL.values()]
    originals.append(
        fakes.encode(Image.fromarray(IMAGE), "PNG", save_all=True, append_images=[Image.fromarray(IMAGE[::-1])])
    )
    originals.append(fakes.encode(fakes.with_palette(IMAGE), "PNG", transparency=7))
    # Transparency without a palette: Pillow asserts that there is one.
    originals.append(fakes.raw_png(64, 64, colour=3, rows=ROWS, extra=[fakes.chunk(b"tRNS", b"\xff\0")]))
    for _ in range(count):
        data = bytearray(chance.choice(originals))
        for _ in range(chance.choice((1, 1, 2, 5))):
            if len(data) > 16:
                chance.choice(MUTATIONS)(data, chance)
        yield fakes.fix_checksums(bytes(data)) if data[1:4] == b"PNG" and chance.random() < 0.7 else bytes(data)


@pytest.mark.parametrize("seed", range(4))
def test_mutated_files_are_images_or_rejected(seed: int) -> None:
    """Damaged bytes give an image or an ImageError, and nothing else escapes to fail a Spark task."""
    for data in mutants(1000, seed):
        try:
            with warnings.catch_warnings(action="ignore"):
                radiograph = decode(data)
        except ImageError:
            continue
        assert radiograph.pixels.ndim == 2
        assert radiograph.pixels.dtype in (np.uint8, np.uint16)
