"""Folders are listed with every name, each real folder once, and what is not a file is told apart."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrfeat.io import storage
from cxrfeat.io.file_names import to_bytes, to_text
from cxrfeat.io.listing import walk
from cxrfeat.io.schema import Reason

names = st.binary(min_size=1, max_size=12).filter(lambda name: not {0, 47} & set(name))
PIECES = [b"%", b"%25", b"%FF", b"%C3", b"%b6", b"\xff", b"\xc3", b"\xb6", b"a", b"2", b"5"]
odd_names = st.lists(st.sampled_from(PIECES)).map(b"".join)


@given(st.one_of(names, odd_names), st.one_of(names, odd_names))
def test_every_name_has_a_text_of_its_own(one: bytes, other: bytes) -> None:
    """Any bytes come back, two names never share a text, and the text is valid UTF-8."""
    for name in (one, other):
        assert to_bytes(to_text(name)) == name
        to_text(name).encode()
    assert (to_text(one) == to_text(other)) == (one == other)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"plain.png", "plain.png"),
        (b"100%20.png", "100%20.png"),
        ("Röntgen%C3%B6.png".encode(), "Röntgen%C3%B6.png"),
        (b"R\xf6ntgen 5%.png", "R%F6ntgen 5%25.png"),
        (b"R%F6ntgen 5%25.png", "R%25F6ntgen 5%2525.png"),
    ],
)
def test_names_in_utf8_stay_as_they_are(name: bytes, text: str) -> None:
    """Only foreign bytes are escaped, and names that would be mistaken for the escape of another."""
    assert to_text(name) == text
    assert to_text(b"f/" + name) == f"f/{text}"


ODD = ["C: x", "a [1]{b}*?", "a b%20#&+c", "Röntgen 胸", "new\nline"]


@pytest.mark.parametrize("folder", ODD)
def test_odd_folders_are_listed_and_their_files_opened(tmp_path: Path, folder: str) -> None:
    """A root and a folder with colon, glob signs, blanks, percent, hash, question mark or line end."""
    path = tmp_path / folder / folder / f"{folder}.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    root = storage.qualify(str(tmp_path / folder))
    (found,) = walk(root)
    assert found.path == f"{folder}/{folder}.png"
    with storage.open_input(storage.locate(root, found.path)) as stream:
        assert stream.read() == b"x"


LISTS = """
import sys
from cxrfeat.io import storage
from cxrfeat.io.listing import walk
root = storage.qualify(sys.argv[1])
for found in walk(root):
    with storage.open_input(storage.locate(root, found.path)) as stream:
        print(ascii(found.path), stream.read().hex())
"""


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "POSIX"])
def test_names_survive_any_locale(tmp_path: Path, locale: str) -> None:
    """Umlauts, other alphabets and bytes that are not UTF-8 are listed and opened under any locale."""
    contents = {b"R\xc3\xb6ntgen.png": b"1", b"R\xf6ntgen.png": b"2", b"\xff/a%FF.png": b"3"}
    root = tmp_path / "Bilder ü"
    for name, content in contents.items():
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    environment = {**os.environ, "LC_ALL": locale}
    printed = subprocess.run([sys.executable, "-c", LISTS, str(root)], env=environment, capture_output=True, check=True)
    expected = {f"{to_text(name)!a} {content.hex()}" for name, content in contents.items()}
    assert set(printed.stdout.decode().splitlines()) == expected


def write(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")


def listed(root: Path) -> list[str]:
    return sorted(found.path for found in walk(str(root)))


def test_links_to_a_parent_do_not_repeat_anything(tmp_path: Path) -> None:
    """Links to the root, to folders above it, to each other and to a sibling: each file once, under its own path."""
    root = tmp_path / "in"
    write(root / "b" / "1.png")
    write(root / "b" / "deep" / "2.png")
    write(tmp_path / "outside" / "3.png")
    for name, target in (("up", tmp_path), ("root", root), ("a", root / "b"), ("loop", Path("loop"))):
        (root / name).symlink_to(target)
    (root / "b" / "deep" / "again").symlink_to(root)
    (root / "b" / "x").symlink_to(root / "c")
    (root / "c").symlink_to(root / "b")
    (root / "z1").symlink_to(tmp_path / "outside")
    (root / "z2").symlink_to(tmp_path / "outside")
    assert [path for path in listed(root) if path.endswith(".png")] == ["b/1.png", "b/deep/2.png", "z1/3.png"]
    assert "loop" in listed(root)


def test_what_is_not_a_file_is_listed_and_never_waited_for(tmp_path: Path) -> None:
    """A dangling link, a FIFO, a socket and a device are listed as not regular, and opening one fails at once."""
    (tmp_path / "dangling.png").symlink_to(tmp_path / "gone.png")
    os.mkfifo(tmp_path / "fifo.png")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.png"))
        (tmp_path / "device.png").symlink_to("/dev/null")
        (tmp_path / "folder.png").mkdir()
        assert {found.path: found.regular for found in walk(str(tmp_path))} == dict.fromkeys(
            ["dangling.png", "fifo.png", "socket.png", "device.png"], False
        )
        reasons = {}
        for name in ("dangling", "fifo", "socket", "device", "folder"):
            with pytest.raises(OSError, match=name) as raised:
                storage.open_input(str(tmp_path / f"{name}.png"))
            reasons[name] = storage.quarantine_reason(raised.value)
    expected = dict.fromkeys(("fifo", "socket", "device", "folder"), Reason.UNREADABLE)
    assert reasons == {"dangling": Reason.MISSING, **expected}


def test_hidden_folders_are_one_entry(tmp_path: Path) -> None:
    """The contents of a hidden folder are not listed; it is told, so that it can be counted."""
    write(tmp_path / ".snapshot" / "a.png")
    write(tmp_path / "_temporary" / "b.png")
    write(tmp_path / ".a.png")
    assert {(found.path, found.hidden) for found in walk(str(tmp_path))} == {
        (".snapshot", True),
        ("_temporary", True),
        (".a.png", True),
    }
