"""Decode DICOM files to gray pixels as a workstation shows them: windowed, and with air in black.

Needs the extra ``dicom``. Messages about a file never quote its header.

Source: DICOM PS3.3 C.11.1 (modality LUT), C.11.2 (VOI LUT), C.7.6.3 (pixels); pydicom.
"""

from __future__ import annotations

import functools
import importlib
import io
import logging
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import scipy.special
from numpy.typing import NDArray

from cxrfeat.errors import ImageError
from cxrfeat.images import dicom_header
from cxrfeat.images.decoded_image import STRIP_ROWS, Radiograph, ReadOptions, check_size
from cxrfeat.images.jpeg import decode_gray
from cxrfeat.io.schema import Reason

MAX_INFLATED_BYTES = 512 * 1024**2
"""Maximum size of the data set in a file with the deflated transfer syntax."""

_START = 128
_PREFIX = b"DICM"
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_LOSSY_JPEG, _LOSSLESS_JPEG, _JPEG_LS, _JPEG_2000 = (0xC0, 0xC1, 0xC2), 0xC3, 0xF7, 0x51
"""Markers of the frame headers of codestreams."""

_EXPLICIT_VRS = (b"UL", b"UI", b"CS", b"OB", b"SH", b"LO", b"DA", b"TM", b"IS")
_GRAY = {"MONOCHROME1": True, "MONOCHROME2": False}
_LOW_SHARE = 1 / 8

_TAGS = (
    *dicom_header.TAGS,
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleIntercept",
    "RescaleSlope",
    "ModalityLUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "VOILUTSequence",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "PixelData",
)


def is_dicom(start: bytes) -> bool:
    """Return True if a file starts as DICOM does, with or without file meta information; 132 bytes are enough."""
    if start[_START : _START + 4] == _PREFIX:
        return True
    group, element = struct.unpack_from("<HH", start) if len(start) >= 8 else (0, 0)
    if group not in (0x0002, 0x0008) or element > 0x0018:
        return False
    return start[4:6] in _EXPLICIT_VRS or int.from_bytes(start[4:8], "little") <= 64


def decode_dicom(data: bytes, options: ReadOptions) -> Radiograph:
    """Decode a DICOM file to gray pixels.

    The stored values pass through the modality LUT or rescale, then through the VOI LUT or the first window; without
    one, the range of the stored bits is the full scale. MONOCHROME1 is inverted, padding is black, overlays are left
    out.

    Args:
        data: content of the whole file.
        options: facts that the file does not say, and the rule for identifiers.

    Returns:
        The image with its header; (H, W) uint8.

    Raises:
        ImageError: the file is damaged, or not a chest radiograph; the message does not quote the header.
    """
    pydicom = _import_pydicom()
    dataset = _read(pydicom, data)
    header = dicom_header.read_header(dataset, options.pseudonyms)
    _check_kind(dataset)
    refusal = None if options.any_dicom else dicom_header.explain_refusal(dataset, header)
    if refusal is not None:
        raise ImageError(Reason.NOT_A_CHEST_RADIOGRAPH, f"{refusal}; --any-dicom takes all images")
    width, height, bits = _check_pixels(dataset)
    stored = _decode_pixels(pydicom, dataset, width, height)
    if stored.shape != (height, width):
        raise ImageError(Reason.CORRUPT, f"decoded to {stored.shape}; expected {(height, width)}")
    pixels = _to_gray(stored, dataset, options)
    photometric = str(dataset.PhotometricInterpretation).lower()
    return Radiograph(pixels, f"{photometric}-{bits}", header)


@functools.cache
def _imagecodecs() -> Any:
    """Return the library of decoders; it takes as long to import as to decode an image."""
    return importlib.import_module("imagecodecs")


def _import_pydicom() -> Any:
    try:
        import pydicom  # noqa: PLC0415 - an extra
        import pydicom.pixels  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ImageError(Reason.UNSUPPORTED_FORMAT, "DICOM; it needs: pip install 'cxrfeat[dicom]'") from error
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    # Messages and warnings quote the header. A filter of warnings that is set already is not added again.
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"pydicom|cxrfeat\.images\.dicom")
    return pydicom


def _read(pydicom: Any, data: bytes) -> Any:
    """Return the data set of a file, with the elements of :data:`_TAGS` alone."""
    if _DEFLATED in data[: _START + 1024]:
        _check_inflated(data)
    return pydicom.dcmread(io.BytesIO(data), force=True, specific_tags=list(_TAGS))


def _check_inflated(data: bytes) -> None:
    """Refuse a deflated data set that takes too much memory."""
    if data[_START : _START + 4] != _PREFIX or data[_START + 4 : _START + 10] != b"\x02\0\0\0UL":
        raise ImageError(Reason.CORRUPT, "the length of the file meta information is missing")
    start = _START + 16 + int.from_bytes(data[_START + 12 : _START + 16], "little")
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    size, left = 0, data[start:]
    while left and not inflater.eof:
        size += len(inflater.decompress(left, 1024**2))
        left = inflater.unconsumed_tail
        if size > MAX_INFLATED_BYTES:
            raise ImageError(Reason.TOO_LARGE, f"data set of more than {MAX_INFLATED_BYTES} bytes")


def _check_kind(dataset: Any) -> None:
    """Refuse objects without one gray image."""
    if "PixelData" not in dataset or "Rows" not in dataset or "Columns" not in dataset:
        raise ImageError(Reason.NO_IMAGE, "DICOM object without an image, such as a report, or a directory")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise ImageError(Reason.MULTI_FRAME, f"{frames} frames; expected 1")
    if int(dataset.get("SamplesPerPixel") or 1) != 1 or dataset.get("PhotometricInterpretation") not in _GRAY:
        raise ImageError(Reason.COLOUR, "a colour image; expected MONOCHROME1 or MONOCHROME2")


def _check_pixels(dataset: Any) -> tuple[int, int, int]:
    """Return width, height and number of stored bits, after a check of all numbers that the decoders use."""
    width, height = int(dataset.Columns), int(dataset.Rows)
    allocated, stored = int(dataset.BitsAllocated), int(dataset.get("BitsStored") or dataset.BitsAllocated)
    if allocated not in (1, 8, 16) or not 1 <= stored <= allocated:
        raise ImageError(Reason.UNSUPPORTED_FORMAT, f"{stored} of {allocated} bits; expected up to 16 of 8 or 16 bits")
    check_size(width, height, 2)
    return width, height, stored


def _decode_pixels(pydicom: Any, dataset: Any, width: int, height: int) -> NDArray[Any]:
    """Return the stored values, (H, W) of an integer type."""
    syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    if syntax is None:
        syntax = (
            pydicom.uid.ImplicitVRLittleEndian if dataset.original_encoding[0] else pydicom.uid.ExplicitVRLittleEndian
        )
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax
    if not syntax.is_transfer_syntax:
        raise ImageError(Reason.UNSUPPORTED_FORMAT, "DICOM with an unknown transfer syntax")
    if syntax.is_compressed and not syntax.is_deflated and syntax != pydicom.uid.RLELossless:
        return _decode_frame(_get_frame(pydicom, dataset), width, height, syntax.name)
    # Frames that are not compressed, and RLE, for which the faster plugins panic over damaged files.
    samples, _ = pydicom.pixels.get_decoder(syntax).as_array(
        dataset,
        raw=True,
        index=0,
        correct_unused_bits=False,
        decoding_plugin="pydicom" if syntax == pydicom.uid.RLELossless else "",
    )
    return np.asarray(samples)


def _get_frame(pydicom: Any, dataset: Any) -> bytes:
    """Return the compressed image."""
    frame: bytes = next(iter(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1)))
    return frame


def _decode_frame(frame: bytes, width: int, height: int, syntax: str) -> NDArray[Any]:
    """Return the stored values of a compressed image, which says itself how it is compressed."""
    marker, found, bits, components = _read_frame_header(frame)
    if not marker:
        raise ImageError(Reason.UNSUPPORTED_FORMAT, f"DICOM with transfer syntax {syntax}")
    if (*found, components) != (width, height, 1):
        raise ImageError(
            Reason.CORRUPT, f"the header says {width}x{height} pixels; the image has {found} of {components} channels"
        )
    if marker == _JPEG_2000:
        return np.asarray(_imagecodecs().jpeg2k_decode(frame))
    if marker == _JPEG_LS:
        return np.asarray(_imagecodecs().jpegls_decode(frame))
    if marker in _LOSSY_JPEG and bits == 8:
        return decode_gray(frame)
    return np.asarray(_imagecodecs().jpeg8_decode(frame))


def _read_frame_header(frame: bytes) -> tuple[int, tuple[int, int], int, int]:
    """Return marker, (width, height), bits and number of channels of a JPEG, JPEG-LS or JPEG 2000 codestream."""
    if frame.startswith(b"\xff\x4f\xff\x51"):
        right, bottom, left, top = struct.unpack_from(">IIII", frame, 8)
        return _JPEG_2000, (right - left, bottom - top), (frame[42] & 0x7F) + 1, int.from_bytes(frame[40:42], "big")
    at = 2
    while frame.startswith(b"\xff\xd8") and at + 10 <= len(frame) and frame[at] == 0xFF:
        marker, length = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4], "big")
        if marker in (*_LOSSY_JPEG, _LOSSLESS_JPEG, _JPEG_LS):
            bits, height, width, components = struct.unpack_from(">BHHB", frame, at + 4)
            return marker, (width, height), bits, components
        at += 2 + length
    return 0, (0, 0), 0, 0


def _to_gray(stored: NDArray[Any], dataset: Any, options: ReadOptions) -> NDArray[np.uint8]:
    """Turn stored values into gray levels by a table of all values that the stored bits can have."""
    bits, signed = int(dataset.get("BitsStored") or dataset.BitsAllocated), bool(dataset.get("PixelRepresentation"))
    high_bit = int(dataset.get("HighBit") or bits - 1)
    values = _extract_bits(stored, bits, high_bit, signed)  # (H, W) int32
    padding = _find_padding(values, dataset, bits, signed)
    declared = options.bits_stored
    if declared is not None and declared < bits and not signed and not _has_window(dataset):
        bits = declared
    low = -(2 ** (bits - 1)) if signed else 0
    ramp = np.arange(low, low + 2**bits)  # every value that can be stored
    seen = values if padding is None else values[~padding]
    if seen.size and int(seen.max()) > ramp[-1]:
        raise ImageError(
            Reason.BEYOND_BITS, f"maximum {seen.max()}; expected at most {ramp[-1]}, as --bits-stored {bits} declares"
        )
    units = _apply_modality(ramp, dataset, signed)
    levels = _apply_window(units, dataset, signed)
    if levels is None:
        levels = _normalise(units)
        _check_range(levels[seen - low], bits, declared)
    if _GRAY[dataset.PhotometricInterpretation]:
        levels = 1 - levels
    # As many levels as a screen has: the embedding is then that of the image as an 8-bit PNG, whatever its bits.
    table = np.rint(levels * 255).astype(np.uint8)
    pixels = np.empty(values.shape, np.uint8)
    for top in range(0, len(values), STRIP_ROWS):
        strip = np.clip(values[top : top + STRIP_ROWS], low, ramp[-1])
        pixels[top : top + STRIP_ROWS] = table[strip - low]
    if padding is not None:
        pixels[padding] = 0
    return pixels


def _extract_bits(stored: NDArray[Any], bits: int, high_bit: int, signed: bool) -> NDArray[np.int32]:
    """Return the values of the stored bits; other bits of a sample may hold overlays."""
    values = stored.astype(np.int32)
    values >>= max(0, high_bit + 1 - bits)
    values &= (1 << bits) - 1
    if signed:
        values -= (values >> (bits - 1)) << bits
    return values


def _find_padding(values: NDArray[np.int32], dataset: Any, bits: int, signed: bool) -> NDArray[np.bool_] | None:
    """Return where the values are padding, or None without any."""
    first = dataset.get("PixelPaddingValue")
    if first is None:
        return None
    last = dataset.get("PixelPaddingRangeLimit", first)
    limits = [_extract_bits(np.array(int(limit)), bits, bits - 1, signed) for limit in (first, last)]
    padding = (values >= min(limits)) & (values <= max(limits))
    return padding if padding.any() else None


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
    data = item.LUTData
    table = np.asarray(list(data) if not isinstance(data, bytes) else np.frombuffer(data, "<u2"), np.float64)
    index = np.clip(np.rint(values).astype(np.int64) - first, 0, (count or 65536) - 1)
    return table[index], bits


def _has_window(dataset: Any) -> bool:
    return bool(dataset.get("VOILUTSequence")) or bool(_read_windows(dataset))


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


def _normalise(values: NDArray[Any]) -> NDArray[np.float64]:
    lowest, highest = float(values.min()), float(values.max())
    if not lowest < highest:
        raise ImageError(Reason.CORRUPT, "the modality LUT gives one value for all")
    return np.asarray((values - lowest) / (highest - lowest))


def _check_range(levels: NDArray[np.float64], bits: int, declared: int | None) -> None:
    """Refuse an image without a window that uses a small part of its bits: probably it has fewer."""
    if declared is None and bits > 8 and levels.size and float(np.ptp(levels)) < _LOW_SHARE:
        raise ImageError(
            Reason.LOW_RANGE,
            f"no window, and the values use {np.ptp(levels):.1%} of {bits} stored bits; expected at least an eighth. "
            "If the images have fewer bits, declare it: --bits-stored",
        )
