"""Containers: the same members in every format, the good ones of a damaged one, and a reason for all others."""

from __future__ import annotations

import gzip
import io
import os
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrfeat.errors import ImageError
from cxrfeat.images import archive_entries, containers, zip_archive
from cxrfeat.images.archive_entries import to_key
from cxrfeat.images.containers import index_container, read_member, stream_container
from cxrfeat.images.tfrecord import find_image, mask_crc, parse_example
from cxrfeat.io.container_names import kind_of
from cxrfeat.io.refs import ImageRef
from cxrfeat.io.skipped import Skipped
from tests import archives

LONG = "/".join(["folder"] * 30) + "/long.png"
CONTENTS = {
    "a.png": b"first" * 200,
    "b/Röntgen 胸.JPG": os.urandom(3000),
    LONG: b"",
    "b/notes.txt": b"text",
    "IM0001": bytes(128) + b"DICM" + b"pixels",
    "1.2.840.5": b"no DICOM",
    "__MACOSX/._a.png": b"resource fork",
    "b/.hidden.png": b"hidden",
    "x.dcm": b"dicom",
}
IMAGES = {name: CONTENTS[name] for name in ("a.png", "b/Röntgen 胸.JPG", LONG, "IM0001", "x.dcm")}
SKIPPED = {".txt": 1, ".5": 1, "hidden": 2}

FORMATS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "pax": ("x.tar", lambda: archives.tar_bytes(CONTENTS)),
    "gnu": ("x.tar", lambda: archives.tar_bytes(CONTENTS, format=tarfile.GNU_FORMAT)),
    "gzip": ("x.tar.gz", lambda: archives.tar_bytes(CONTENTS, "w:gz")),
    "tgz in pieces": ("x.tgz", lambda: b"".join(map(gzip.compress, _halves(archives.tar_bytes(CONTENTS))))),
    "gzip under another name": ("x.tar", lambda: archives.tar_bytes(CONTENTS, "w:gz")),
    "tar under another name": ("x.tar.gz", lambda: archives.tar_bytes(CONTENTS)),
    "deflated": ("x.zip", lambda: archives.zip_bytes(CONTENTS)),
    "stored": ("x.zip", lambda: archives.zip_bytes(CONTENTS, zipfile.ZIP_STORED)),
    "sizes behind": ("x.zip", lambda: archives.zip_bytes(CONTENTS, seekable=False)),
    "with a prefix": ("x.zip", lambda: b"#!/bin/sh\n" + archives.zip_bytes(CONTENTS)),
}


def _halves(data: bytes) -> tuple[bytes, bytes]:
    return data[:1000], data[1000:]


def read(folder: Path, name: str, data: bytes) -> tuple[dict[str, bytes | tuple[str, str]], dict[str, int]]:
    """Read a container as a job does: member, or path of the container → bytes, or reason and message."""
    (folder / name).write_bytes(data)
    listing = index_container(str(folder), name)
    found: dict[str, bytes | tuple[str, str]] = {}
    skipped = listing.skipped
    for item in listing.items:
        if item.reason is not None:
            assert item.key not in found
            found[item.member or item.path] = item.reason, item.message or ""
        elif item.member is not None:
            try:
                found[item.member] = read_member(str(folder), item, None)
            except ImageError as error:
                found[item.member] = error.reason, str(error)
        else:
            skipped = Skipped()
            for member, content in stream_container(str(folder), name, skipped):
                key = member.member or member.path
                assert key not in found
                if isinstance(content, ImageError):
                    found[key] = content.reason, str(content)
                else:
                    found[key] = (member.reason or "", member.message or "") if content is None else content
    return found, dict(skipped.counts)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_the_same_members(tmp_path: Path, name: str) -> None:
    """Long names, other alphabets, empty members, DICOM without a suffix, hidden files and text: as in a folder."""
    path, make = FORMATS[name]
    assert read(tmp_path, path, make()) == (IMAGES, SKIPPED)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("a.tar", "tar"), ("a.TGZ", "tar"), ("b/a.tar.gz", "tar"), ("a.zip", "zip"), ("0-438.tfrec", "tfrecord")),
        *(("x.tfrecords.gz", "tfrecord"), ("a.gz", None), ("a.tar.xz", None), (".tar", None), ("a.png", None)),
    ],
)
def test_containers_are_known_by_suffix(name: str, kind: str | None) -> None:
    """Upper case too; a name that is nothing but the suffix is none."""
    assert kind_of(name) == kind


@pytest.mark.parametrize("pack", [archives.tar_bytes, archives.zip_bytes, lambda c: archives.tar_bytes(c, "w:gz")])
def test_names_are_keys_and_never_paths(tmp_path: Path, pack: Callable[[archives.Contents], bytes]) -> None:
    """Absolute names, dots and folders above lose these parts; what then is the same name is a duplicate."""
    names = ["/etc/a.png", "../../b.png", "./c//d.png", "etc/a.png", "etc/./a.png", "nested.zip", "n.tar.xz"]
    contents = {name: name.encode() for name in names}
    suffix = "tar.gz" if pack(contents)[:2] == b"\x1f\x8b" else "zip" if pack(contents)[:2] == b"PK" else "tar"
    found, _ = read(tmp_path, f"x.{suffix}", pack(contents))
    good = {"etc/a.png": b"/etc/a.png", "b.png": b"../../b.png", "c/d.png": b"./c//d.png"}
    assert {key: value for key, value in found.items() if isinstance(value, bytes)} == good
    reasons = {key: value[0] for key, value in found.items() if isinstance(value, tuple)}
    assert reasons == {
        "etc/a.png#2": "duplicate-member",
        "etc/a.png#3": "duplicate-member",
        "nested.zip": "nested-archive",
        "n.tar.xz": "nested-archive",
    }


def test_odd_entries_of_a_tar_are_quarantined(tmp_path: Path) -> None:
    """Links, devices and names that are not UTF-8: a row each, and the rest goes on."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, kind in (
            ("link.png", tarfile.SYMTYPE),
            ("hard.png", tarfile.LNKTYPE),
            ("fifo.png", tarfile.FIFOTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "R\udcf6.png"
            archive.addfile(info)
        info = tarfile.TarInfo("folder.png")
        info.type = tarfile.DIRTYPE
        archive.addfile(info)
        info = tarfile.TarInfo("R\udcf6.png")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    found, _ = read(tmp_path, "x.tar", sink.getvalue())
    assert found.pop("R%F6.png") == b"x"
    assert {key: value[0] for key, value in found.items()} == dict.fromkeys(
        ("link.png", "hard.png", "fifo.png"), "unreadable"
    )


def test_odd_members_of_a_zip_are_quarantined(tmp_path: Path) -> None:
    """An encrypted member, another compression and a wrong CRC: a row each, and the rest goes on."""
    data = bytearray(
        archives.zip_bytes({"a.png": b"a" * 50, "b.png": b"b" * 50, "c.png": b"c" * 50}, zipfile.ZIP_STORED)
    )
    central = data.index(b"PK\x01\x02")
    data[6] |= 1
    data[central + 8] |= 1
    second = data.index(b"PK\x03\x04", 1)
    data[second + 40] ^= 1
    found, _ = read(tmp_path, "x.zip", bytes(data))
    assert {key: value if isinstance(value, bytes) else value[0] for key, value in found.items()} == {
        "a.png": "encrypted",
        "b.png": "corrupt",
        "c.png": b"c" * 50,
    }
    found, _ = read(tmp_path, "y.zip", archives.zip_bytes({"a.png": b"a" * 50}, zipfile.ZIP_BZIP2))
    assert found["a.png"][0] == "unreadable"


def test_names_of_old_zips_are_read(tmp_path: Path) -> None:
    """Backslashes are folders; names without the UTF-8 flag are the bytes that they are."""
    data = archives.zip_bytes({"a_b.png": b"1", "R__.png": b"2"})
    data = data.replace(b"a_b.png", b"a\\b.png").replace(b"R__.png", "Rö.png".encode())
    assert read(tmp_path, "x.zip", data)[0] == {"a/b.png": b"1", "Rö.png": b"2"}


def test_bombs_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that is larger than allowed, declared or not, costs a row; too many members, the rest."""
    for module in (archive_entries, zip_archive):
        monkeypatch.setattr(module, "MAX_MEMBER_BYTES", 1000)
    contents = {"a.png": b"a", "bomb.png": bytes(5000), "z.png": b"z"}
    for name, data in (
        ("x.zip", archives.zip_bytes(contents)),
        ("x.tar", archives.tar_bytes(contents)),
        ("x.tgz", archives.tar_bytes(contents, "w:gz")),
    ):
        found, _ = read(tmp_path, name, data)
        assert found.pop("bomb.png")[0] == "too-large"
        assert found == {"a.png": b"a", "z.png": b"z"}
    lying = bytearray(archives.zip_bytes(contents))
    for at in (lying.index(b"PK\x03\x04", 1) + 22, lying.index(b"PK\x01\x02", lying.index(b"PK\x01\x02") + 1) + 24):
        lying[at : at + 4] = struct.pack("<I", 10)  # declares ten bytes
    found, _ = read(tmp_path, "y.zip", bytes(lying))
    assert found.pop("bomb.png")[0] == "too-large"
    monkeypatch.setattr(containers, "MAX_MEMBERS", 2)
    found, _ = read(tmp_path, "x.tar", archives.tar_bytes(contents))
    assert found.pop("x.tar") == ("too-large", "more than 2 members; 3 members before it were read")
    monkeypatch.setattr(zip_archive, "_MAX_INDEX_BYTES", 50)
    found, _ = read(tmp_path, "x.zip", archives.zip_bytes(contents))
    assert found["x.zip"][0] == "corrupt-archive"


def test_a_huge_extended_header_is_not_read(tmp_path: Path) -> None:
    """A long name of gigabytes ends the archive instead of filling the memory."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 33
    found, _ = read(tmp_path, "x.tar", archives.tar_bytes({"a.png": b"a"})[:1024] + info.tobuf(tarfile.GNU_FORMAT))
    assert found.pop("a.png") == b"a"
    assert found["x.tar"][0] == "corrupt-archive"


MEMBERS = {f"{index}.png": random.Random(index).randbytes(700) for index in range(8)}

PACKED: dict[str, tuple[str, bytes]] = {
    "tar": ("x.tar", archives.tar_bytes(MEMBERS, format=tarfile.USTAR_FORMAT)),
    "tar.gz": ("x.tar.gz", archives.tar_bytes(MEMBERS, "w:gz")),
    "zip": ("x.zip", archives.zip_bytes(MEMBERS)),
    "zip, sizes behind": ("x.zip", archives.zip_bytes(MEMBERS, seekable=False)),
    "tfrecord": ("x.tfrec", archives.tfrecord_bytes([archives.example_bytes({"image": d}) for d in MEMBERS.values()])),
}


def expected(name: str) -> dict[str, bytes]:
    if name != "tfrecord":
        return dict(MEMBERS)
    return {f"{index:06d}": data for index, data in enumerate(MEMBERS.values())}


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.46, 0.57])
def test_a_cut_archive_gives_its_good_members(tmp_path: Path, name: str, share: float) -> None:
    """The members before the cut are right, none is wrong, and one row says where the archive breaks.

    A tar archive ends in padding, and a TFRecord file has no end: cuts in the one and between records are not damage.
    """
    path, data = PACKED[name]
    cut = data[: int(len(data) * share)]
    found, _ = read(tmp_path, path, cut)
    reason, message = map(str, found.pop(path))
    assert reason in ("truncated-archive", "corrupt-archive", "empty")
    assert share < 0.1 or (reason == "truncated-archive" and ("byte" in message or "member" in message))
    assert found.items() <= expected(name).items()
    assert len(found) >= int(8 * share) - 1


@pytest.mark.parametrize("name", PACKED)
def test_single_damages_never_give_wrong_bytes(tmp_path: Path, name: str) -> None:
    """One byte or 64 zeros: no exception, nothing is lost without a word, and checksums find all where they exist."""
    path, data = PACKED[name]
    random_numbers = random.Random(name)
    good = expected(name)
    for _ in range(int(os.environ.get("CXRFEAT_FUZZ", "60"))):
        damaged = bytearray(data)
        at = random_numbers.randrange(len(data))
        if random_numbers.random() < 0.5:
            damaged[at] ^= 1 << random_numbers.randrange(8)
        else:
            damaged[at : at + 64] = bytes(len(damaged[at : at + 64]))
        found, skipped = read(tmp_path, path, bytes(damaged))
        right = {key for key, value in found.items() if good.get(key) == value}
        wrong = {key for key, value in found.items() if isinstance(value, bytes) and key in good and key not in right}
        assert not wrong or name in ("tar", "tar.gz")  # a tar has no checksum of its data; an image has its own
        quarantined = sum(isinstance(value, tuple) for value in found.values())
        renamed = {key for key in found if key not in good and key != path}
        assert len(right) == len(good) or quarantined or wrong or renamed or skipped


def test_an_archive_that_changed_is_not_mixed_up(tmp_path: Path) -> None:
    """A member that is not where the index said is quarantined, never taken for another."""
    for name, pack in (("x.tar", archives.tar_bytes), ("x.zip", archives.zip_bytes)):
        (tmp_path / name).write_bytes(pack({"a.png": b"a" * 600, "b.png": b"b" * 600}))
        items = index_container(str(tmp_path), name).items
        (tmp_path / name).write_bytes(pack({"b.png": b"b" * 600, "a.png": b"a" * 600}))
        for item in items:
            with pytest.raises(ImageError, match="the archive has changed"):
                read_member(str(tmp_path), item, None)


@pytest.mark.parametrize(
    ("name", "reason"), [("gone.tar", "missing"), ("fifo.zip", "unreadable"), ("folder.tar", "unreadable")]
)
def test_what_is_no_file_has_a_reason(tmp_path: Path, name: str, reason: str) -> None:
    """A container that is gone, a FIFO or a folder is one quarantined item."""
    os.mkfifo(tmp_path / "fifo.zip")
    (tmp_path / "folder.tar").mkdir()
    (item,) = index_container(str(tmp_path), name).items
    assert (item.path, item.member, item.reason) == (name, None, reason)


values = st.one_of(
    st.binary(max_size=300), st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5), st.floats()
)


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=20), values, max_size=6))
def test_examples_are_read_as_protobuf_reads_them(features: dict[str, bytes | list[int] | float]) -> None:
    """Any features: names, integers and the place of bytes agree with the protobuf library."""
    data = archives.example_bytes(features)
    found = parse_example(io.BytesIO(data), 0, len(data))
    assert found.keys() == features.keys()
    for name, value in features.items():
        if isinstance(value, bytes):
            ((place, length),) = found[name].blobs
            assert data[place : place + length] == value
        elif isinstance(value, list):
            assert list(found[name].integers) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_an_example_or_refused(data: bytes) -> None:
    """Bytes that are not a message raise ImageError and nothing else."""
    try:
        parse_example(io.BytesIO(data), 0, len(data))
    except ImageError as error:
        assert error.reason == "corrupt"


def test_records_carry_their_checksum(tmp_path: Path) -> None:
    """The masked CRC32C is that of a bitwise reference; a record with a wrong one is quarantined, the next one read."""
    data = archives.tfrecord_bytes([archives.example_bytes({"image": b"x" * 40})] * 3, archives.crc32c)
    assert mask_crc(b"123456789") == struct.pack(
        "<I", ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) & 0xFFFFFFFF
    )
    assert read(tmp_path, "x.tfrec", data)[0] == {f"00000{index}": b"x" * 40 for index in range(3)}
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 1
    for name, content in (("x.tfrec", bytes(damaged)), ("y.tfrec.gz", gzip.compress(bytes(damaged)))):
        found, _ = read(tmp_path, name, content)
        assert found["000001"] == ("corrupt", f"wrong CRC32C of the record's {len(data) // 3 - 16} bytes")
        assert len(found) == 3


@pytest.mark.parametrize(
    ("features", "name", "result"),
    [
        ({"image": b"1"}, None, b"1"),
        ({"image/encoded": b"2", "label": 1}, None, b"2"),
        ({"image_raw": b"3", "other": b"4"}, None, b"3"),
        ({"scan": b"5", "image": b"6"}, "scan", b"5"),
        ({"scan": b"7"}, None, "no-image-feature"),
        ({"image": 7}, None, "no-image-feature"),
        ({"image": b"8"}, "scan", "no-image-feature"),
    ],
)
def test_the_image_feature_is_found(features: dict[str, bytes | int], name: str | None, result: bytes | str) -> None:
    """By the usual names, or by the one that is given, and by no other."""
    data = archives.example_bytes(features)
    parsed = parse_example(io.BytesIO(data), 0, len(data))
    if isinstance(result, bytes):
        assert find_image(data, parsed, name) == result
    else:
        with pytest.raises(ImageError, match="features ") as raised:
            find_image(data, parsed, name)
        assert raised.value.reason == result


@given(st.binary(min_size=1, max_size=30).filter(lambda name: 0 not in name))
def test_a_key_never_leaves_its_container(name: bytes) -> None:
    """Whatever a member is called, its key has no empty, ``.`` or ``..`` part."""
    parts = to_key(name).split("/")
    assert not {".", ".."} & set(parts)
    assert "" not in parts or parts == [""]


def test_a_member_reference_has_the_path_of_its_container() -> None:
    """The key reads as if the container were a folder."""
    assert ImageRef("images_001.tar.gz", "images/00000001_000.png").key == "images_001.tar.gz/images/00000001_000.png"
