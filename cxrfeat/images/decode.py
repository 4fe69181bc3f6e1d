"""Decode an image file to gray pixels, or reject it with a reason code.

The content decides on the format; the name of a file only makes it a candidate. Accepted are gray images, and colour
images with gray content (about 1 % of ChestX-ray14 is gray stored as RGBA). Everything else is rejected rather than
converted: colour photographs and CMYK prints are not radiographs.
"""

from __future__ import annotations

from collections.abc import Callable

from cxrfeat.errors import ImageError
from cxrfeat.images import jpeg, png
from cxrfeat.images.radiograph import DEFAULT_OPTIONS, Radiograph, ReadOptions
from cxrfeat.io.schema import Reason

_READERS: tuple[tuple[bytes, Callable[[bytes, ReadOptions], Radiograph]], ...] = (
    (png.SIGNATURE, png.decode_png_file),
    (jpeg.SIGNATURE, jpeg.decode_jpeg_file),
)
"""Readers by the first bytes of the files that they read."""

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
        cxrfeat.errors.ImageError: GIF; expected PNG or JPEG
    """
    if not data:
        raise ImageError(Reason.EMPTY, "the file has 0 bytes")
    for signature, read in _READERS:
        if data.startswith(signature):
            return _decode_safely(read, data, options)
    for signature, offset, name in _UNSUPPORTED:
        if data.startswith(signature, offset):
            raise ImageError(Reason.UNSUPPORTED_FORMAT, f"{name}; expected PNG or JPEG")
    raise ImageError(Reason.NOT_PNG_OR_JPEG, f"neither PNG nor JPEG; it starts with {data[:16]!r}")


def _decode_safely(read: Callable[[bytes, ReadOptions], Radiograph], data: bytes, options: ReadOptions) -> Radiograph:
    """Decode a file, and turn whatever a library raises into an ImageError."""
    try:
        return read(data, options)
    except (ImageError, MemoryError):
        raise
    # Damaged files make decoders raise nearly any exception, from SyntaxError to AssertionError. The file is the only
    # input here, so it must be the cause.
    except Exception as error:
        raise ImageError(Reason.CORRUPT, f"cannot decode the {len(data)} bytes of the file: {error!r}") from error
