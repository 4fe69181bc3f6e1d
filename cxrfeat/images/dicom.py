"""Decode DICOM files to gray pixels as a workstation shows them: windowed, and with air in black.

Needs the extra ``dicom``. Messages about a file never quote its header.

Source: DICOM PS3.5 (transfer syntaxes) and PS3.10 (files); pydicom and imagecodecs.
"""

from __future__ import annotations

import importlib
import io
import logging
import struct
import warnings
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrfeat.errors import ImageError
from cxrfeat.images import dicom_header, dicom_pixels
from cxrfeat.images.decoded_image import Radiograph, ReadOptions, check_size
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

_TAGS = (
    *dicom_header.TAGS,
    *dicom_pixels.TAGS,
    "SamplesPerPixel",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
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
    pixels = dicom_pixels.to_gray(stored, dataset, options.bits_stored)
    photometric = str(dataset.PhotometricInterpretation).lower()
    return Radiograph(pixels, f"{photometric}-{bits}", header)


def _import(name: str) -> Any:
    """Return a module of the extra ``dicom``, or refuse the file with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ImageError(
            Reason.UNSUPPORTED_FORMAT, f"DICOM; it needs {error.name}: pip install 'cxrfeat[dicom]'"
        ) from error


def _import_pydicom() -> Any:
    """Return pydicom, silenced."""
    pydicom = _import("pydicom")
    _import("pydicom.pixels")
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
    if (
        int(dataset.get("SamplesPerPixel") or 1) != 1
        or dataset.get("PhotometricInterpretation") not in dicom_pixels.PHOTOMETRIC
    ):
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
        return np.asarray(_import("imagecodecs").jpeg2k_decode(frame))
    if marker == _JPEG_LS:
        return np.asarray(_import("imagecodecs").jpegls_decode(frame))
    if marker in _LOSSY_JPEG and bits == 8:
        return decode_gray(frame)
    return np.asarray(_import("imagecodecs").jpeg8_decode(frame))


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
