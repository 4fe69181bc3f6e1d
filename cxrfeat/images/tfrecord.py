"""Entries of TFRecord files, and the features of their ``tf.train.Example`` messages, without TensorFlow.

The reader of messages is our own, some 60 lines: it skips the bytes of an image where only labels are asked for, which
no protobuf library does.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import google_crc32c

from cxrfeat.errors import ImageError
from cxrfeat.images.archive_entries import (
    MAX_OFFSET,
    ArchiveEntry,
    ArchiveError,
    ByteStream,
    check_end,
    check_size,
    read_exactly,
)
from cxrfeat.io.schema import Reason

IMAGE_FEATURES = ("image", "image/encoded", "image_raw", "image_bytes", "encoded_image", "jpeg", "png")
"""Names of the feature with the encoded image, in the order in which they are tried."""

_HEAD = struct.Struct("<Q4s")
"""Length of the data, and the checksum of those eight bytes; the data follow, and their checksum."""

RECORD_HEAD_BYTES = _HEAD.size

_CHECKSUM_BYTES = 4

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
"""Wire types of protobuf."""

_MAX_NAME_BYTES = 4096
_MAX_VALUES = 1 << 20


class Feature(NamedTuple):
    """One feature of an example.

    Attributes:
        blobs: place and length in bytes of each value of a bytes feature.
        integers: values of an integer feature.
    """

    blobs: Sequence[tuple[int, int]] = ()
    integers: Sequence[int] = ()


def read_tfrecords(stream: ByteStream, size: int | None = None) -> Iterator[ArchiveEntry]:
    """Yield the records of a TFRecord file; a record's name is its number, from ``000000``.

    Args:
        stream: the file, at its start.
        size: its size in bytes; None for a stream.

    Raises:
        ArchiveError: the file ends early, or the length of a record is damaged; the message says where.
    """
    offset = number = 0
    while (length := _read_length(stream, number, offset)) is not None:
        check_end(offset + _HEAD.size + length + _CHECKSUM_BYTES, size, f"record {number}")
        yield _to_entry(stream, number, offset, length)
        number += 1
        offset = stream.seek(offset + _HEAD.size + length + _CHECKSUM_BYTES)


def read_tfrecord(stream: ByteStream, number: int, offset: int) -> ArchiveEntry:
    """Return the record at an offset.

    Raises:
        ArchiveError: no record is there.
    """
    stream.seek(offset)
    length = _read_length(stream, number, offset)
    if length is None:
        raise ArchiveError(Reason.CORRUPT_ARCHIVE, f"no record at byte {offset}; the file has changed")
    return _to_entry(stream, number, offset, length)


def _to_entry(stream: ByteStream, number: int, offset: int, length: int) -> ArchiveEntry:
    read = partial(_read_data, stream, number, offset + _HEAD.size, length)
    return ArchiveEntry(f"{number:06d}".encode(), offset, length, read, check_size(length))


def _read_length(stream: ByteStream, number: int, offset: int) -> int | None:
    where = f"record {number} at byte {offset}"
    head = stream.read(_HEAD.size)
    if not head:
        return None
    if len(head) < _HEAD.size:
        raise ArchiveError(Reason.TRUNCATED_ARCHIVE, f"{where}: {len(head)} bytes left; expected {_HEAD.size}")
    length, checksum = _HEAD.unpack(head)
    if mask_crc(head[:8]) != checksum or length > MAX_OFFSET:
        raise ArchiveError(Reason.CORRUPT_ARCHIVE, f"{where}: wrong CRC32C of the length {length}")
    return int(length)


def _read_data(stream: ByteStream, number: int, offset: int, length: int, count: int | None) -> bytes:
    where = f"record {number} at byte {offset}"
    stream.seek(offset)
    if count is not None:
        return read_exactly(stream, min(count, length), where)
    data = read_exactly(stream, length + _CHECKSUM_BYTES, where)
    data, checksum = data[:length], data[length:]
    if mask_crc(data) != checksum:
        raise ImageError(Reason.CORRUPT, f"wrong CRC32C of the record's {length} bytes")
    return data


def mask_crc(data: bytes) -> bytes:
    """Return the masked CRC32C of TFRecord files, as four bytes."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def find_image(example: bytes, features: Mapping[str, Feature], name: str | None) -> bytes:
    """Return the encoded image of an example.

    Args:
        example: bytes of the message.
        features: its features.
        name: name of the image's feature; None tries :data:`IMAGE_FEATURES`.

    Raises:
        ImageError: the example has no such feature, or it is not one bytes value.
    """
    for candidate in (name,) if name else IMAGE_FEATURES:
        feature = features.get(candidate)
        if feature is not None and len(feature.blobs) == 1:
            place, length = feature.blobs[0]
            return example[place : place + length]
    found = ", ".join(sorted(features)) or "none"
    expected = name or " or ".join(IMAGE_FEATURES)
    raise ImageError(Reason.NO_IMAGE_FEATURE, f"features {found[:500]}; expected {expected} with one bytes value")


def parse_example(stream: ByteStream, start: int, length: int) -> dict[str, Feature]:
    """Return the features of a ``tf.train.Example`` by name; bytes values are not read, floats are left out.

    Args:
        stream: seekable stream that holds the message.
        start: place of the message in the stream in bytes.
        length: its length in bytes.

    Raises:
        ImageError: the bytes are not an example.
    """
    features: dict[str, Feature] = {}
    message = _Message(stream)
    for features_start, features_length in message.children(start, length, 1):  # Example.features
        for entry_start, entry_length in message.children(features_start, features_length, 1):  # Features.feature
            name, feature = "", Feature()
            for key_start, key_length in message.children(entry_start, entry_length, 1):
                name = message.read(key_start, min(key_length, _MAX_NAME_BYTES)).decode(errors="replace")
            for value_start, value_length in message.children(entry_start, entry_length, 2):
                feature = message.feature(value_start, value_length)
            features[name] = feature
    return features


class _Message:
    """Reader of protobuf's wire format in a seekable stream."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream

    def read(self, start: int, length: int) -> bytes:
        self._stream.seek(start)
        data = bytes(self._stream.read(length))
        if len(data) < length:
            raise ImageError(Reason.CORRUPT, "the record is not a tf.train.Example: it ends early")
        return data

    def children(self, start: int, length: int, number: int) -> list[tuple[int, int]]:
        """Return start and length of the length-delimited fields of one number."""
        return [
            (at, size) for field, kind, at, size in self._fields(start, length) if (field, kind) == (number, _BYTES)
        ]

    def feature(self, start: int, length: int) -> Feature:
        """Return a Feature message: a list of bytes (field 1), floats (2) or integers (3)."""
        blobs = [blob for at, size in self.children(start, length, 1) for blob in self.children(at, size, 1)]
        integers: list[int] = []
        for at, size in self.children(start, length, 3):
            for field, kind, place, count in self._fields(at, size):
                if field == 1 and kind == _BYTES:  # packed
                    if count > 10 * _MAX_VALUES:
                        raise ImageError(Reason.CORRUPT, f"a feature of {count} bytes of integers")
                    integers += _read_varints(self.read(place, count))
                elif field == 1 and kind == _VARINT:
                    integers += _read_varints(self.read(place, count))
        return Feature(blobs, integers)

    def _fields(self, start: int, length: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield number, wire type, place and length of the value of each field in a message."""
        position, end = start, start + length
        while position < end:
            head = self.read(position, min(20, end - position))  # a tag and a length are two varints
            tag, used = _read_varint(head, 0)
            number, kind = tag >> 3, tag & 7
            if kind == _VARINT:
                place, size = position + used, _read_varint(head, used)[1] - used
            elif kind == _BYTES:
                size, after = _read_varint(head, used)
                place = position + after
            elif kind in (_FIXED64, _FIXED32):
                place, size = position + used, 8 if kind == _FIXED64 else 4
            else:
                raise ImageError(Reason.CORRUPT, f"the record is not a tf.train.Example: wire type {kind}")
            if place + size > end:
                raise ImageError(Reason.CORRUPT, "the record is not a tf.train.Example: a field is too long")
            yield number, kind, place, size
            position = place + size


def _read_varint(data: bytes, start: int) -> tuple[int, int]:
    """Return the integer at a place and the place behind it."""
    value = 0
    for index, byte in enumerate(data[start : start + 10]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, start + index + 1
    raise ImageError(Reason.CORRUPT, "the record is not a tf.train.Example: an integer never ends")


def _read_varints(data: bytes) -> Iterator[int]:
    """Yield the signed 64-bit integers in packed bytes."""
    place = 0
    while place < len(data):
        value, place = _read_varint(data, place)
        yield value - (1 << 64) if value >= 1 << 63 else value
