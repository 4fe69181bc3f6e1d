"""Decode an image file to gray pixels, or reject it with a reason code.

The content decides on the format; the name of a file only makes it a candidate. Accepted are gray images, and colour
images with gray content (about 1 % of ChestX-ray14 is gray stored as RGBA). Everything else is rejected rather than
converted: colour photographs and CMYK prints are not radiographs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cxrfeat.errors import ImageError
from cxrfeat.images import jpeg, png
from cxrfeat.images.decoded_image import DEFAULT_OPTIONS, Radiograph, ReadOptions
from cxrfeat.images.dicom import decode_dicom, is_dicom
from cxrfeat.io.schema import Reason

_Reader = Callable[[bytes, ReadOptions], Radiograph]

_READERS: Mapping[str, tuple[Callable[[bytes], bool], _Reader]] = {
    "PNG": (lambda data: data.startswith(png.SIGNATURE), png.decode_png_file),
    "JPEG": (lambda data: data.startswith(jpeg.SIGNATURE), jpeg.decode_jpeg_file),
    "DICOM": (lambda data: is_dicom(data[:132]), decode_dicom),
}
"""Formats that are read: how a file shows that it has the format, and its reader."""

_UNSUPPORTED: tuple[tuple[bytes, int, str], ...] = (
    (b"II*\0", 0, "TIFF"),
    (b"MM\0*", 0, "TIFF"),
    (b"II+\0", 0, "TIFF"),
    (b"MM\0+", 0, "TIFF"),
    (b"\xff\x4f\xff\x51", 0, "JPEG 2000"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", 0, "JPEG 2000"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", 0, "JPEG XL"),
    (b"\xff\x0a", 0, "JPEG XL"),
    (b"GIF8", 0, "GIF"),
    (b"BM", 0, "BMP"),
    (b"WEBP", 8, "WebP"),
    (b"ftyphei", 4, "HEIF"),
    (b"ftypmif1", 4, "HEIF"),
    (b"ftypavif", 4, "AVIF"),
    (b"%PDF-", 0, "PDF"),
)
"""First bytes of known formats that are not read, their place in the file, and the name of the format."""

_EXPECTED = "PNG, JPEG or DICOM"


def decode_image(data: bytes, options: ReadOptions = DEFAULT_OPTIONS) -> Radiograph:
    """Decode the bytes of one image file.

    Args:
        data: content of the whole file.
        options: facts that the file does not say.

    Raises:
        ImageError: the file is not an acceptable radiograph; ``reason`` gives the reason code.

    Example:
        >>> decode_image(b"GIF89a")
        Traceback (most recent call last):
        cxrfeat.errors.ImageError: GIF; expected PNG, JPEG or DICOM
    """
    if not data:
        raise ImageError(Reason.EMPTY, "the file has 0 bytes")
    name = name_format(data)
    if name is not None and name in _READERS:
        return _decode_safely(_READERS[name][1], data, options)
    if name is not None:
        raise ImageError(Reason.UNSUPPORTED_FORMAT, f"{name}; expected {_EXPECTED}")
    raise ImageError(Reason.NOT_PNG_OR_JPEG, f"no {_EXPECTED}; it starts with {data[:16]!r}")


def name_format(data: bytes) -> str | None:
    """Return the name of a file's format by its content; None for an unknown one.

    Example:
        >>> name_format(b"GIF89a"), name_format(b"hello")
        ('GIF', None)
    """
    for name, (matches, _) in _READERS.items():
        if matches(data):
            return name
    return next((name for signature, at, name in _UNSUPPORTED if data.startswith(signature, at)), None)


def _decode_safely(read: _Reader, data: bytes, options: ReadOptions) -> Radiograph:
    """Decode a file, and turn whatever a library raises into an ImageError."""
    try:
        return read(data, options)
    except (ImageError, MemoryError):
        raise
    # Damaged files make decoders raise nearly any exception, from SyntaxError to AssertionError. The file is the only
    # input here, so it must be the cause. The text of an error about a DICOM file may quote its header.
    except Exception as error:
        said = type(error).__name__ if read is decode_dicom else repr(error)
        raise ImageError(Reason.CORRUPT, f"cannot decode the {len(data)} bytes of the file: {said}") from None
