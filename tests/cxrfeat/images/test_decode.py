"""The decoder returns the gray levels of the file or raises ImageError with a reason, and nothing else."""

from __future__ import annotations

import io
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from cxrfeat.errors import ImageError
from cxrfeat.images.decode import decode_image
from cxrfeat.images.decoded_image import MAX_IMAGE_MEMORY, MAX_PIXELS
from cxrfeat.io.schema import Reason
from tests import fakes
from tests.dicom_files import LOSSLESS, dicom
from tests.image_files import CASES, DAMAGES, Case

IMAGE = fakes.gray_image(64, 80)


def refusal(data: bytes) -> ImageError:
    with pytest.raises(ImageError) as refused:
        decode_image(data)
    return refused.value


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_file_gets_its_verdict(case: Case) -> None:
    """A file is its right pixels, as OpenCV or the writer of the file has them, or a row that says why not."""
    if case.pixels is None:
        with pytest.raises(ImageError) as refused:
            decode_image(case.data, case.options)
        assert refused.value.reason == case.verdict
        return
    radiograph = decode_image(case.data, case.options)
    assert radiograph.pixel_format == case.verdict
    assert radiograph.pixels.dtype == case.pixels.dtype
    assert radiograph.pixels.shape == case.pixels.shape
    assert np.abs(radiograph.pixels.astype(int) - case.pixels).max() <= case.tolerance


def test_every_reason_of_a_decoder_has_a_case() -> None:
    """The table has at least 80 files, and every reason among them."""
    reasons = {case.verdict for case in CASES if case.pixels is None}
    assert len({case.name for case in CASES}) == len(CASES) >= 80
    assert reasons == {
        Reason.BEYOND_BITS,
        Reason.COLOUR,
        Reason.CORRUPT,
        Reason.EMPTY,
        Reason.LOW_RANGE,
        Reason.NOT_PNG_OR_JPEG,
        Reason.TOO_LARGE,
        Reason.TOO_SMALL,
        Reason.UNSUPPORTED_FORMAT,
        Reason.UNSUPPORTED_MODE,
    }


@pytest.mark.parametrize("kind", fakes.LEGAL)
def test_8_bit_pixels_are_those_of_pillow(kind: str) -> None:
    """The levels are those of Pillow's convert("L"), which the usual training pipelines use."""
    pixel_format, write = fakes.LEGAL[kind]
    data = write(IMAGE)
    if pixel_format != "gray16":
        with Image.open(io.BytesIO(data)) as image:
            np.testing.assert_array_equal(decode_image(data).pixels, np.asarray(image.convert("L")))


def photo(coloured: float) -> Image.Image:
    """Return a 100 × 100 image whose upper part, of the given share, is red."""
    pixels = np.repeat(fakes.gray_image(100, 100)[:, :, None] // 2, 3, axis=2)
    pixels[: round(coloured * 100), :, 0] += 100
    return Image.fromarray(pixels)


def test_a_small_coloured_mark_is_legal() -> None:
    """An image with a coloured mark on one percent of its pixels is accepted and converted by luma."""
    image = photo(0.01)
    np.testing.assert_array_equal(decode_image(fakes.encode(image, "PNG")).pixels, np.asarray(image.convert("L")))


def test_traces_of_colour_are_legal() -> None:
    """Channels of a gray pixel may differ by 24 levels, as JPEG makes them, and not by 25."""
    for difference, legal in ((24, True), (25, False)):
        pixels = np.full((64, 64, 3), 100, np.uint8)
        pixels[..., 1] += difference
        data = fakes.encode(Image.fromarray(pixels), "PNG")
        assert (decode_image(data).pixel_format if legal else refusal(data).reason) == (
            "rgb8" if legal else Reason.COLOUR
        )


def test_a_colour_palette_is_refused() -> None:
    """A palette can hide colour: its colours count, not its indices."""
    image = Image.fromarray(IMAGE).convert("P")
    image.putpalette([level for index in range(256) for level in (index, 255 - index, 0)])
    assert refusal(fakes.encode(image, "PNG")).reason == Reason.COLOUR


MESSAGES = {
    "only a signature": "the file of 8 bytes ends before",
    "narrow": "31x40 pixels",
    "CMYK": "JPEG in mode CMYK",
    "bomb": "30000x30000 pixels",
    "one row too many": "8000x8001 pixels; expected at most 64000000",
    "3,000 scans": "expected at most 100 scans",
    "12 bits in 16-bit gray": "expected at least 8192. If the images have 12 bits, declare it: --bits-stored 12",
    "more than the declared bits": "expected at most 4095",
    "JPEG-LS": "JPEG-LS; expected",
    "12-bit JPEG": "12-bit JPEG",
    "TIFF": "TIFF; expected PNG, JPEG or DICOM",
    "wrong checksum of the pixels": "wrong checksum of chunk b'IDAT' at byte",
    "half a JPEG with an end": "premature end of data segment",
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_refusal_says_what_is_there_and_what_is_expected(name: str) -> None:
    """The message has the actual value and the limit, and the advice where there is one."""
    case = next(case for case in CASES if case.name == name)
    with pytest.raises(ImageError) as refused:
        decode_image(case.data, case.options)
    assert MESSAGES[name] in str(refused.value)


def test_smallest_and_largest_images_are_legal() -> None:
    """32 pixels per side are enough, and the header check accepts exactly MAX_PIXELS."""
    assert decode_image(fakes.png(fakes.gray_image(32, 32))).pixels.shape == (32, 32)
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
    whole = decode_image(data).pixels
    for length in range(len(data)):
        try:
            np.testing.assert_array_equal(decode_image(data[:length]).pixels, whole)
        except ImageError as error:
            assert error.reason in (Reason.EMPTY, Reason.CORRUPT, Reason.NOT_PNG_OR_JPEG)


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
    originals.append(fakes.raw_png(64, 64, colour=3, rows=bytes(65 * 64), extra=[fakes.chunk(b"tRNS", b"\xff\0")]))
    for _ in range(count):
        data = bytearray(chance.choice(originals))
        for _ in range(chance.choice((1, 1, 2, 5))):
            if len(data) > 16:
                chance.choice(MUTATIONS)(data, chance)
        yield fakes.fix_checksums(bytes(data)) if data[1:4] == b"PNG" and chance.random() < 0.7 else bytes(data)


@pytest.mark.parametrize("seed", range(7))
def test_mutated_files_are_images_or_rejected(seed: int) -> None:
    """Damaged bytes give an image or an ImageError, and nothing else escapes to fail a Spark task."""
    for data in mutants(1000, seed):
        try:
            radiograph = decode_image(data)
        except ImageError:
            continue
        assert radiograph.pixels.ndim == 2
        assert radiograph.pixels.dtype in (np.uint8, np.uint16)


def damaged(originals: Sequence[bytes], count: int) -> Iterator[tuple[int, bytes]]:
    """Yield the number of a file and the file with a single damage."""
    chance = np.random.default_rng(0)
    damages = list(DAMAGES.values())
    for turn in range(count):
        number = turn % len(originals)
        data = bytearray(originals[number])
        damages[turn // len(originals) % len(damages)](data, chance)
        yield number, bytes(data)


def check_damages(originals: Sequence[bytes], count: int) -> None:
    pixels = [decode_image(original).pixels for original in originals]
    refused = 0
    for number, data in damaged(originals, count):
        try:
            np.testing.assert_array_equal(decode_image(data).pixels, pixels[number])
        except ImageError:
            refused += 1
    assert refused > count // 2


def nih_images(shared: Path) -> list[Path]:
    return sorted((shared / "nih").rglob("*.png"))


def test_no_damaged_png_is_taken_with_wrong_pixels() -> None:
    """8,000 single damages to PNGs of every kind: each is refused, or shows the pixels that were written."""
    kinds = [write for name, (_, write) in fakes.LEGAL.items() if name.endswith("png")]
    check_damages([write(fakes.gray_image(64, 64, seed)) for seed, write in enumerate(kinds)], 8000)


@pytest.mark.shared
def test_no_damaged_real_film_is_taken_with_wrong_pixels(shared: Path) -> None:
    """2,000 single damages to real films."""
    check_damages([path.read_bytes() for path in nih_images(shared)[:40]], 2000)


@pytest.mark.shared
def test_holes_in_jpegs_are_noticed(shared: Path) -> None:
    """A hole of 4,096 zeros, or half a file with an end marker, is refused by the warnings of the decoder."""
    chance = random.Random(0)
    for path in nih_images(shared)[:20]:
        with Image.open(path) as image:
            data = fakes.encode(image.convert("L"), "JPEG", quality=90)
        at = chance.randrange(1000, len(data) - 5000)
        assert refusal(data[:at] + bytes(4096) + data[at + 4096 :]).reason == Reason.CORRUPT
        assert refusal(data[: len(data) // 2] + b"\xff\xd9").reason == Reason.CORRUPT


def gradient(side: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint16]]:
    """Return a (side, side) image of all levels."""
    return np.add.outer(np.arange(side), np.arange(side)).astype(np.uint16) * np.uint16(4)


LARGEST = {
    "rgba8": lambda: fakes.raw_png(8000, 8000, colour=6, rows=bytes(32_001) * 8000),
    "gray16": lambda: fakes.raw_png(8000, 8000, depth=16, rows=(b"\0" + b"\xff" * 16_000) * 8000),
    "rgba16": lambda: fakes.raw_png(5700, 5700, depth=16, colour=6, rows=(b"\0" + b"\xff" * 45_600) * 5700),
    "monochrome2-12": lambda: dicom(gradient(8000) // 16, 12, PixelPaddingValue=7),
    "monochrome2-16": lambda: dicom(gradient(8000), 16, LOSSLESS["JPEG 2000"]),
    "rgb8": lambda: fakes.encode(Image.new("RGB", (6600, 6600)), "JPEG", progressive=True, subsampling=0),
}
MEASURE = """
import resource, sys
from pathlib import Path
from cxrfeat.images.decode import decode_image
from cxrfeat.images.preprocess import to_model_input
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
image = decode_image(Path(sys.argv[1]).read_bytes())
to_model_input(image.pixels)
print(image.pixel_format, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", LARGEST)
def test_the_largest_files_need_bounded_memory(kind: str, tmp_path: Path) -> None:
    """A file of the largest legal size, of a few hundred KB, takes no more memory than the documented bound."""
    (tmp_path / "image").write_bytes(LARGEST[kind]())
    words = [sys.executable, "-c", MEASURE, str(tmp_path / "image")]
    found, used = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
    assert found == kind
    assert int(used) <= MAX_IMAGE_MEMORY
