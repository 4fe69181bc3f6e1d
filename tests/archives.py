"""Write the same images as files, tar, gzipped tar, zip, TFRecord and WebDataset shards."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

Contents = Mapping[str, bytes]
"""Name → bytes of each member, in order."""


def write_files(folder: Path, contents: Contents) -> None:
    for name, data in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def tar_bytes(contents: Contents, mode: str = "w", format: int = tarfile.PAX_FORMAT) -> bytes:  # noqa: A002
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode=mode, format=format) as archive:  # type: ignore[call-overload]
        for name, data in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def zip_bytes(contents: Contents, method: int = zipfile.ZIP_DEFLATED, *, seekable: bool = True) -> bytes:
    """Return a zip archive; one that is not seekable has the sizes behind the data."""
    sink = io.BytesIO()

    class Pipe(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any, /) -> int:
            return sink.write(data)

    with zipfile.ZipFile(sink if seekable else Pipe(), "w", method) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return sink.getvalue()


@cache
def example_class() -> Any:
    """Return the class of ``tf.train.Example``, from its description alone."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tensorflow", syntax="proto3")
    field = descriptor_pb2.FieldDescriptorProto

    def message(name: str, *fields: tuple[str, int, int, str | None]) -> Any:
        made = file.message_type.add(name=name)
        for field_name, number, kind, type_name in fields:
            repeated = type_name is None or type_name.endswith("Entry")
            label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            made.field.add(name=field_name, number=number, type=kind, label=label, type_name=type_name)
        return made

    message("BytesList", ("value", 1, field.TYPE_BYTES, None))
    message("FloatList", ("value", 1, field.TYPE_FLOAT, None))
    message("Int64List", ("value", 1, field.TYPE_INT64, None))
    lists = (("bytes_list", "BytesList"), ("float_list", "FloatList"), ("int64_list", "Int64List"))
    feature = message(
        "Feature", *((name, n, field.TYPE_MESSAGE, f".tensorflow.{kind}") for n, (name, kind) in enumerate(lists, 1))
    )
    feature.oneof_decl.add(name="kind")
    for entry in feature.field:
        entry.oneof_index = 0
    features = message("Features", ("feature", 1, field.TYPE_MESSAGE, ".tensorflow.Features.FeatureEntry"))
    nested = features.nested_type.add(name="FeatureEntry")
    nested.options.map_entry = True
    nested.field.add(name="key", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    nested.field.add(
        name="value", number=2, type=field.TYPE_MESSAGE, label=field.LABEL_OPTIONAL, type_name=".tensorflow.Feature"
    )
    message("Example", ("features", 1, field.TYPE_MESSAGE, ".tensorflow.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


def example_bytes(values: Mapping[str, Any]) -> bytes:
    """Return a serialised ``tf.train.Example``."""
    example = example_class()()
    for name, value in values.items():
        feature = example.features.feature[name]
        if isinstance(value, bytes):
            feature.bytes_list.value.append(value)
        elif isinstance(value, float):
            feature.float_list.value.append(value)
        else:
            feature.int64_list.value.extend(value if isinstance(value, list) else [value])
    made: bytes = example.SerializeToString()
    return made


def crc32c(data: bytes) -> int:
    """Return the CRC32C, bit by bit: a reference."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def tfrecord_bytes(records: list[bytes], checksum: Callable[[bytes], int] | None = None) -> bytes:
    """Return a TFRecord file; ``checksum`` is the CRC32C, by default Google's library."""
    import google_crc32c

    made = bytearray()
    for record in records:
        length = struct.pack("<Q", len(record))
        for data in (length, record):
            crc = (checksum or google_crc32c.value)(data)
            made += data + struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
    return bytes(made)
