"""DICOM files written for tests: any bit depth, window and transfer syntax, with headers that name nobody real."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

LOSSLESS = {
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian,
    "deflated": pydicom.uid.DeflatedExplicitVRLittleEndian,
    "JPEG lossless": pydicom.uid.JPEGLosslessSV1,
    "JPEG-LS": pydicom.uid.JPEGLSLossless,
    "JPEG 2000": pydicom.uid.JPEG2000Lossless,
    "RLE": pydicom.uid.RLELossless,
}
"""Transfer syntaxes that keep every value."""

LOSSY = {
    "JPEG": pydicom.uid.JPEGBaseline8Bit,
    "12-bit JPEG": pydicom.uid.JPEGExtended12Bit,
    "JPEG 2000 lossy": pydicom.uid.JPEG2000,
}

_ENCODERS: dict[UID, Callable[[NDArray[Any]], bytes | bytearray]] = {
    pydicom.uid.JPEGLosslessSV1: imagecodecs.ljpeg_encode,
    pydicom.uid.JPEGLSLossless: imagecodecs.jpegls_encode,
    pydicom.uid.JPEG2000Lossless: lambda stored: imagecodecs.jpeg2k_encode(stored, codecformat="j2k", reversible=True),
    pydicom.uid.JPEGBaseline8Bit: lambda stored: imagecodecs.jpeg8_encode(stored, level=95),
    pydicom.uid.JPEGExtended12Bit: lambda stored: imagecodecs.jpeg8_encode(stored, level=95, bitspersample=12),
    pydicom.uid.JPEG2000: lambda stored: imagecodecs.jpeg2k_encode(stored, level=90, codecformat="j2k"),
}


def make_dataset(stored: NDArray[Any], bits: int, **elements: Any) -> Dataset:
    """Return a chest radiograph with (H, W) stored values; ``elements`` are set, or removed where they are None."""
    signed = bool(stored.min() < 0)
    allocated = 8 if bits <= 8 else 16
    made = Dataset()
    made.SOPClassUID = DigitalXRayImageStorageForPresentation
    made.SOPInstanceUID = made.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.1"
    made.Modality, made.BodyPartExamined, made.ViewPosition = "DX", "CHEST", "PA"
    made.PatientID, made.PatientAge, made.PatientSex = "P1", "058Y", "F"
    made.Rows, made.Columns = stored.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit = allocated, bits, bits - 1
    made.PixelRepresentation = int(signed)
    made.PixelData = stored.astype(f"{'i' if signed else 'u'}{allocated // 8}").tobytes()
    made["PixelData"].VR = "OB" if allocated == 8 else "OW"
    for keyword, value in elements.items():
        if value is None:
            delattr(made, keyword)
        else:
            setattr(made, keyword, value)
    return made


def write(dataset: Dataset, syntax: UID = ExplicitVRLittleEndian, *, meta: bool = True) -> bytes:
    """Return a file in any transfer syntax; without ``meta``, it starts with its first element."""
    if syntax in _ENCODERS:
        kind = f"{'i' if dataset.PixelRepresentation else 'u'}{dataset.BitsAllocated // 8}"
        stored = np.frombuffer(dataset.PixelData, kind).reshape(dataset.Rows, dataset.Columns)
        dataset.PixelData = encapsulate([_ENCODERS[syntax](stored)])
    elif syntax == ExplicitVRBigEndian and dataset.BitsAllocated == 16:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    stream = io.BytesIO()
    if not meta:
        pydicom.dcmwrite(stream, dataset, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
        return stream.getvalue()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax == RLELossless else syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", "1.2.3")
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", "1.2.3")
    if syntax == RLELossless:
        dataset.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    pydicom.dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


def dicom(stored: NDArray[Any], bits: int, syntax: UID = ExplicitVRLittleEndian, **elements: Any) -> bytes:
    """Return the file of a chest radiograph; see :func:`make_dataset`."""
    return write(make_dataset(stored, bits, **elements), syntax)


def lut(data: NDArray[Any], first: int, bits: int) -> Sequence:
    """Return a modality or VOI LUT sequence."""
    item = Dataset()
    item.LUTDescriptor = [len(data) % 65536, first, bits]
    item.LUTData = data.astype(np.uint16).tolist()
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    return Sequence([item])


def scale(levels: NDArray[np.uint8], bits: int) -> NDArray[np.int64]:
    """Return 8-bit levels in another number of bits: 255 becomes full scale."""
    scaled: NDArray[np.int64] = np.rint(levels / 255 * (2**bits - 1)).astype(np.int64)
    return scaled
