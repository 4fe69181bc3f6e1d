"""DICOM files become the gray levels that a workstation shows, or are refused by name, and never quote their header."""

from __future__ import annotations

import io
import random
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.data import get_testdata_files
from pydicom.pixels import apply_voi_lut
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from cxrfeat.errors import ImageError
from cxrfeat.images import dicom as reader
from cxrfeat.images.decode import decode_image
from cxrfeat.images.decoded_image import ReadOptions
from cxrfeat.images.preprocess import to_model_input
from cxrfeat.io.schema import Reason
from tests import fakes
from tests.dicom_files import LOSSLESS, LOSSY, dicom, lut, make_dataset, scale, write

GRAY = fakes.gray_image(64, 80)
ANY = ReadOptions(any_dicom=True)


def shares(data: bytes, options: ReadOptions = ANY) -> NDArray[np.float64]:
    """Return the decoded levels from 0 to 1."""
    pixels = decode_image(data, options).pixels
    return pixels / np.iinfo(pixels.dtype).max


def refusal(data: bytes, options: ReadOptions = ANY) -> ImageError:
    with pytest.raises(ImageError) as refused:
        decode_image(data, options)
    return refused.value


@pytest.mark.parametrize("bits", [8, 10, 12, 15, 16])
@pytest.mark.parametrize("syntax", LOSSLESS)
def test_every_lossless_syntax_keeps_every_value(syntax: str, bits: int) -> None:
    """The stored values are those that were written, and full scale is white."""
    stored = scale(GRAY, bits)
    image = decode_image(dicom(stored, bits, LOSSLESS[syntax]))
    assert image.pixel_format == f"monochrome2-{bits}"
    assert image.pixels.dtype == np.uint8
    np.testing.assert_array_equal(image.pixels, GRAY)


@pytest.mark.parametrize("syntax", LOSSY)
def test_lossy_syntaxes_are_close(syntax: str) -> None:
    """JPEG and JPEG 2000 lose a few levels."""
    bits = 12 if "12" in syntax else 8
    error = shares(dicom(scale(GRAY, bits), bits, LOSSY[syntax])) - GRAY / 255
    assert np.abs(error).mean() < 0.01


def with_overlay(stored: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return values of 12 bits with an overlay in the four bits above."""
    return stored | (np.arange(stored.shape[1]) % 16 << 12)


def padded(stored: NDArray[Any], value: int) -> NDArray[np.int64]:
    made = stored.astype(np.int64)
    made[:, :8] = value
    return made


TWELVE = scale(GRAY, 12)
SHOWN: dict[str, tuple[bytes, NDArray[Any]]] = {
    "MONOCHROME1": (dicom(4095 - TWELVE, 12, PhotometricInterpretation="MONOCHROME1"), GRAY),
    "signed": (dicom(TWELVE - 2048, 12), GRAY),
    "signed with rescale": (dicom(TWELVE - 2048, 12, RescaleSlope=1, RescaleIntercept=2048), GRAY),
    "negative slope": (
        dicom(TWELVE, 12, RescaleSlope=-1, RescaleIntercept=0, WindowCenter=-2047.5, WindowWidth=4096),
        255 - GRAY,
    ),
    "window": (dicom(TWELVE, 12, WindowCenter=2048, WindowWidth=4096), GRAY),
    "window in units": (
        dicom(TWELVE, 12, RescaleSlope=2, RescaleIntercept=-100, WindowCenter=3996, WindowWidth=8191),
        GRAY,
    ),
    "first of two windows": (dicom(TWELVE, 12, WindowCenter=[2048, 9], WindowWidth=[4096, 2]), GRAY),
    "exact window": (dicom(TWELVE, 12, WindowCenter=2047.5, WindowWidth=4095, VOILUTFunction="LINEAR_EXACT"), GRAY),
    "window without width": (dicom(TWELVE, 12, WindowCenter=2048, WindowWidth=0), GRAY),
    "empty window": (dicom(TWELVE, 12, WindowCenter=None or "", WindowWidth=""), GRAY),
    "VOI LUT": (dicom(scale(GRAY, 8), 12, VOILUTSequence=lut(np.arange(256) * 257, 0, 16)), GRAY),
    "VOI LUT of 12 bits": (dicom(TWELVE, 12, VOILUTSequence=lut(4095 - np.arange(4096), 0, 12)), 255 - GRAY),
    "VOI LUT before a window": (
        dicom(TWELVE, 12, VOILUTSequence=lut(np.arange(4096), 0, 12), WindowCenter=9, WindowWidth=2),
        GRAY,
    ),
    "modality LUT": (dicom(scale(GRAY, 8), 8, ModalityLUTSequence=lut(np.arange(256) * 16, 0, 12)), GRAY),
    "high bit": (dicom(TWELVE * 16, 12, HighBit=15), GRAY),
    "overlay in unused bits": (dicom(with_overlay(TWELVE), 12), GRAY),
    "padding": (dicom(padded(TWELVE, 4095), 12, PixelPaddingValue=4095), padded(GRAY, 0)),
    "range of padding": (
        dicom(padded(TWELVE, 4000), 12, PixelPaddingValue=4095, PixelPaddingRangeLimit=3990),
        padded(GRAY, 0),
    ),
    "padding in MONOCHROME1": (
        dicom(padded(4095 - TWELVE, 0), 12, PixelPaddingValue=0, PhotometricInterpretation="MONOCHROME1"),
        padded(GRAY, 0),
    ),
    "signed padding": (dicom(padded(TWELVE - 2048, -2000), 12, PixelPaddingValue=-2000), padded(GRAY, 0)),
    "no file meta, implicit": (write(make_dataset(TWELVE, 12), ImplicitVRLittleEndian, meta=False), GRAY),
    "no file meta, explicit": (write(make_dataset(TWELVE, 12), ExplicitVRLittleEndian, meta=False), GRAY),
    "no number of stored bits": (dicom(scale(GRAY, 16), 16, HighBit=15), GRAY),
    "modality from the class": (dicom(TWELVE, 12, Modality=""), GRAY),
    "chest by another word": (dicom(TWELVE, 12, BodyPartExamined="THORAX PA"), GRAY),
    "no body part": (dicom(TWELVE, 12, BodyPartExamined=None), GRAY),
    "CR": (dicom(TWELVE, 12, Modality="CR"), GRAY),
}


@pytest.mark.parametrize("name", SHOWN)
def test_an_image_is_shown_as_on_a_workstation(name: str) -> None:
    """Modality, window, inversion, padding and bits: the levels are those that the image was made from."""
    data, expected = SHOWN[name]
    error = np.abs(shares(data, ReadOptions()) - expected / 255)
    assert np.quantile(error, 0.98) <= 1.01 / 255  # windows round; padding may swallow the pixels of its level


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("centre", "width"), [(1000, 500), (2048, 4096), (3000.5, 77.5), (100, 1.5)])
def test_windows_equal_those_of_pydicom(function: str, centre: float, width: float) -> None:
    """The three functions of the standard, against pydicom's implementation of them."""
    data = dicom(TWELVE, 12, WindowCenter=centre, WindowWidth=width, VOILUTFunction=function)
    dataset = pydicom.dcmread(io.BytesIO(data))
    expected = apply_voi_lut(TWELVE.astype(np.uint16), dataset) / 4095
    np.testing.assert_allclose(shares(data), expected, atol=0.501 / 255)


def resized(data: bytes) -> bytes:
    """Return a compressed file whose header claims one column less."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    dataset.Columns -= 1
    stream = io.BytesIO()
    dataset.save_as(stream)
    return stream.getvalue()


REFUSED: dict[str, tuple[bytes, Reason]] = {
    "report": (dicom(TWELVE, 12, PixelData=None), Reason.NO_IMAGE),
    "no rows": (dicom(TWELVE, 12, Rows=None), Reason.NO_IMAGE),
    "frames": (dicom(TWELVE, 12, NumberOfFrames=3), Reason.MULTI_FRAME),
    "colour": (dicom(TWELVE, 12, SamplesPerPixel=3, PhotometricInterpretation="RGB"), Reason.COLOUR),
    "palette": (dicom(TWELVE, 12, PhotometricInterpretation="PALETTE COLOR"), Reason.COLOUR),
    "32 bits": (dicom(TWELVE, 12, BitsAllocated=32, BitsStored=32), Reason.UNSUPPORTED_FORMAT),
    "video": (dicom(TWELVE, 12).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0"), Reason.UNSUPPORTED_FORMAT),
    "cut off": (dicom(TWELVE, 12)[:-4000], Reason.CORRUPT),
    "larger than its data": (dicom(TWELVE, 12, Rows=5000), Reason.CORRUPT),
    "bomb": (dicom(TWELVE, 12, Rows=65535, Columns=65535), Reason.TOO_LARGE),
    "another size inside": (resized(dicom(TWELVE, 12, LOSSLESS["JPEG 2000"])), Reason.CORRUPT),
    "small": (dicom(TWELVE[:16], 12), Reason.TOO_SMALL),
    "12 of 16 bits without a window": (dicom(TWELVE // 2, 16), Reason.LOW_RANGE),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_embedded_is_named(name: str) -> None:
    """Reports, frames, colours, damage and sizes have their reasons."""
    data, reason = REFUSED[name]
    assert refusal(data).reason == reason


@pytest.mark.parametrize(
    ("elements", "said"),
    [
        ({"Modality": "CT"}, "modality CT, body part CHEST"),
        ({"Modality": "SOMETHING", "SOPClassUID": "1.2.3"}, "modality unknown"),
        ({"BodyPartExamined": "KNEE"}, "body part KNEE"),
        ({"BodyPartExamined": "Frau Muster"}, "body part OTHER"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "raw data of a detector"),
    ],
)
def test_only_radiographs_of_the_chest_are_taken(elements: dict[str, str], said: str) -> None:
    """Others are refused, in words of closed lists, unless the run takes any."""
    data = dicom(TWELVE, 12, **elements)
    error = refusal(data, ReadOptions())
    assert error.reason == Reason.NOT_A_CHEST_RADIOGRAPH
    assert said in str(error)
    assert decode_image(data, ANY).pixels.shape == GRAY.shape


def test_declared_bits_replace_an_unknown_full_scale() -> None:
    """--bits-stored 12 makes 4095 white where nothing else says so; larger values are named, a window goes first."""
    data = dicom(TWELVE, 16)
    assert "--bits-stored" in str(refusal(data))
    np.testing.assert_allclose(shares(data, ReadOptions(bits_stored=12)), GRAY / 255, atol=1e-6)
    assert refusal(data, ReadOptions(bits_stored=10)).reason == Reason.BEYOND_BITS
    windowed = dicom(TWELVE, 16, WindowCenter=2048, WindowWidth=4096)
    np.testing.assert_allclose(shares(windowed, ReadOptions(bits_stored=10)), GRAY / 255, atol=1.01 / 255)


@pytest.mark.parametrize("package", ["pydicom", "imagecodecs"])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Without the extra, a DICOM file is refused with the command that installs it."""
    data = dicom(TWELVE, 12, LOSSLESS["JPEG 2000"])
    monkeypatch.setitem(sys.modules, package, None)
    error = refusal(data)
    assert package in str(error)
    assert error.reason == Reason.UNSUPPORTED_FORMAT
    assert "pip install 'cxrfeat[dicom]'" in str(error)


def test_a_deflated_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The size of a deflated data set is checked before it is read."""
    monkeypatch.setattr(reader, "MAX_INFLATED_BYTES", 5000)
    assert refusal(dicom(TWELVE, 12, LOSSLESS["deflated"])).reason == Reason.TOO_LARGE


def test_every_file_of_pydicom_has_a_verdict() -> None:
    """The test files of pydicom: each is ok or a named reason."""
    verdicts = []
    with warnings.catch_warnings(action="ignore"):
        files = [Path(name) for name in get_testdata_files() if Path(name).is_file()]
    for path in files:
        try:
            decode_image(path.read_bytes(), ANY)
            verdicts.append("ok")
        except ImageError as error:
            verdicts.append(error.reason)
    assert len(verdicts) > 80
    assert {"ok", Reason.NO_IMAGE, Reason.MULTI_FRAME, Reason.COLOUR, Reason.LOW_RANGE} <= set(verdicts)


def mutants(count: int, seed: int) -> Iterator[bytes]:
    """Yield damaged copies of files of all syntaxes; most damages are in the header."""
    chance = random.Random(seed)
    gray = GRAY[:48, :48].copy()
    originals = [
        dicom(scale(gray, bits), bits, syntax, WindowCenter=2 ** (bits - 1), WindowWidth=2**bits)
        for syntax in LOSSLESS.values()
        for bits in (8, 12)
    ]
    originals += [dicom(scale(gray, 8), 8, LOSSY["JPEG"]), dicom(scale(gray, 12), 12, LOSSY["12-bit JPEG"])]
    originals.append(dicom(scale(gray, 12), 12, VOILUTSequence=lut(np.arange(4096), 0, 12)))
    for _ in range(count):
        data = bytearray(chance.choice(originals))
        for _ in range(chance.choice((1, 1, 2, 5))):
            end = min(len(data), 1200) if chance.random() < 0.6 else len(data)
            at = chance.randrange(end)
            kind = chance.randrange(5)
            if kind == 0:
                data[at] = chance.randrange(256)
            elif kind == 1:
                data[at] = chance.choice((0, 1, 127, 128, 255))
            elif kind == 2:
                del data[at : at + chance.randrange(1, 9)]
            elif kind == 3:
                data[at:at] = chance.randbytes(4)
            elif chance.random() < 0.2:
                del data[at + 64 :]
        yield bytes(data)


@pytest.mark.parametrize("seed", range(4))
def test_mutated_files_are_images_or_rejected(seed: int) -> None:
    """500 damaged files a seed: nothing but ImageError escapes, and none takes a second."""
    verdicts = set()
    for data in mutants(500, seed):
        start = time.process_time()
        try:
            decode_image(data, ANY)
            verdicts.add("ok")
        except ImageError as error:
            verdicts.add(error.reason)
        assert time.process_time() - start < 5
    assert {"ok", Reason.CORRUPT, Reason.NO_IMAGE} <= verdicts


@pytest.mark.shared
@pytest.mark.parametrize("bits", [8, 10, 12, 15, 16])
def test_real_films_have_the_model_input_of_their_png(shared: Path, bits: int) -> None:
    """A film as DICOM, inverted or with a window, has the same model input as the PNG."""
    for number, path in enumerate(sorted((shared / "nih").rglob("*.png"))[:6]):
        gray = decode_image(path.read_bytes()).pixels
        assert gray.dtype == np.uint8
        stored = scale(gray.astype(np.uint8), bits)
        syntax = list(LOSSLESS.values())[number]
        white = 2**bits - 1
        files = (
            dicom(stored, bits, syntax),
            dicom(white - stored, bits, syntax, PhotometricInterpretation="MONOCHROME1"),
            dicom(stored, bits, syntax, WindowCenter=2 ** (bits - 1), WindowWidth=2**bits),
        )
        for data in files:
            np.testing.assert_array_equal(to_model_input(decode_image(data).pixels), to_model_input(gray))
