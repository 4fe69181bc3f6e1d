"""Locations have one canonical form, and files are listed as Spark lists them."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pyarrow.fs as pafs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrfeat.errors import ConfigError
from cxrfeat.io import listing, storage

NAMES = ["plain.png", "a b.png", "100%20.png", "a#b.png", "a?b.png", "ä ö 胸.png", "a+b&c=d.png", "a%.png", "a:b.png"]

segments = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=8).filter(
    lambda name: name.strip(".") != ""
)


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/data/x", "/data/x"),
        ("/data/x/", "/data/x"),
        ("/data//x/./y/../z", "/data/x/z"),
        ("/", "/"),
        ("file:/data/x", "/data/x"),
        ("file:///data/x/", "/data/x"),
        ("file:/data/a%20b", "/data/a b"),
        ("file:/", "/"),
        ("s3a://bucket/x", "s3a://bucket/x"),
        ("s3a://bucket/x///", "s3a://bucket/x"),
        ("s3a://bucket/", "s3a://bucket"),
        ("s3://bucket/x/", "s3a://bucket/x"),
        ("s3n://bucket", "s3a://bucket"),
        ("hdfs://name:8020/a/../b", "hdfs://name:8020/a/../b"),
        ("s3a://bucket/a b%20c", "s3a://bucket/a b%20c"),
        *((f"/data/{name}", f"/data/{name}") for name in NAMES),
        *((f"s3a://bucket/{name}", f"s3a://bucket/{name}") for name in NAMES),
    ],
)
def test_qualify_gives_one_form(location: str, expected: str) -> None:
    """Paths and URIs come out absolute, without a trailing slash, and otherwise letter for letter."""
    assert storage.qualify(location) == expected
    assert storage.qualify(expected) == expected


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("", "work"),
        (".", "work"),
        ("x", "work/x"),
        ("../x", "x"),
        ("a/../b/", "work/b"),
        ("~", "home"),
        ("~/x", "home/x"),
    ],
)
def test_qualify_resolves_relative_paths_and_the_home_folder(
    location: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative paths start at the working folder, ``~`` at the home folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert storage.qualify(location) == str(tmp_path / expected)


def test_qualify_keeps_symbolic_links(tmp_path: Path) -> None:
    """A link is not followed, so that Spark's paths start with ours."""
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    assert storage.qualify(str(tmp_path / "link")) == str(tmp_path / "link")


@pytest.mark.parametrize("prefix", ["file:", "file://"])
@pytest.mark.parametrize("name", NAMES)
def test_local_uris_of_spark_become_paths(prefix: str, name: str) -> None:
    """Spark percent-encodes what it logs; the path comes back as it is on disk."""
    assert storage.from_spark(f"{prefix}/data/{quote(name)}") == f"/data/{name}"


@pytest.mark.parametrize("name", NAMES)
def test_remote_uris_of_spark_are_decoded(name: str) -> None:
    """An object's key comes back as it is in the bucket."""
    assert storage.from_spark(f"s3a://bucket/{quote(name)}") == f"s3a://bucket/{name}"


@given(st.lists(segments, min_size=1, max_size=4))
def test_any_path_survives_spark(parts: list[str]) -> None:
    """Encoding a path as Spark does and decoding it gives the qualified path, whatever the names."""
    path = "/" + "/".join(parts)
    assert storage.from_spark("file:" + quote(path)) == path == storage.qualify(path)


@given(st.sampled_from(["/", "/data", "s3a://bucket", "s3a://bucket/x"]), st.lists(segments, min_size=1, max_size=3))
def test_relative_to_is_the_inverse_of_join(root: str, parts: list[str]) -> None:
    """A location is its root and its path below it, for the root folder too."""
    assert storage.relative_to(storage.join(root, *parts), root) == "/".join(parts)


@pytest.mark.parametrize(
    ("location", "root"),
    [("/data/x", "/other"), ("/database/x", "/data"), ("/data", "/data"), ("s3a://b/x", "s3a://c")],
)
def test_a_location_that_is_not_below_is_refused(location: str, root: str) -> None:
    """A neighbour that starts with the same letters is not below the root."""
    with pytest.raises(ValueError, match="is not below") as refused:
        storage.relative_to(location, root)
    assert repr(location) in str(refused.value)
    assert repr(root) in str(refused.value)


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


SEEN = ["a.png", "b.PNG", "c.JPeG", "deep/er/d.png", "x_y/_part=1/e.png", "_f=1.png", *NAMES]
UNSEEN = [
    "a.txt",
    "png",
    "a.png.gz",
    ".hidden.png",
    ".png",
    "_temporary/a.png",
    "deep/.snapshot/a.png",
    "_a.png",
    "b.png._COPYING_",
    "deep/folder._COPYING_/a.png",
]


@pytest.mark.parametrize("trailing", ["", "/"])
def test_files_are_listed_as_spark_sees_them(tmp_path: Path, trailing: str) -> None:
    """Every depth, every case of the suffix; nothing hidden, half-copied or of another kind; folders are no files."""
    make(tmp_path, *SEEN, *UNSEEN)
    (tmp_path / "folder.png").mkdir()
    assert sorted(listing.list_files(f"{tmp_path}{trailing}", (".png", ".jpeg"))) == sorted(SEEN)


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    """A linked file has its own name, a linked folder is walked, and a dangling link is listed, for the quarantine."""
    make(tmp_path / "elsewhere", "a.png", "sub/b.png")
    root = tmp_path / "root"
    root.mkdir()
    (root / "file.png").symlink_to(tmp_path / "elsewhere" / "a.png")
    (root / "folder").symlink_to(tmp_path / "elsewhere" / "sub", target_is_directory=True)
    (root / "dangling.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "root-link").symlink_to(root, target_is_directory=True)
    for folder in (root, tmp_path / "root-link"):
        assert sorted(listing.list_files(str(folder), (".png",))) == ["dangling.png", "file.png", "folder/b.png"]


def test_a_root_below_a_hidden_folder_is_listed(tmp_path: Path) -> None:
    """Only names below the root can hide a file, not where the root lies."""
    make(tmp_path / ".cache" / "_images", "a.png")
    assert list(listing.list_files(str(tmp_path / ".cache" / "_images"), (".png",))) == ["a.png"]


@pytest.mark.parametrize(("name", "said"), [("gone", "does not exist"), ("a.png", "is a file")])
def test_only_folders_are_listed(tmp_path: Path, name: str, said: str) -> None:
    """A missing folder or a file in its place is an error of the options, and says which."""
    make(tmp_path, "a.png")
    with pytest.raises(ConfigError, match=f"{name}' {said}; expected a folder"):
        list(listing.list_files(str(tmp_path / name), (".png",)))


@pytest.mark.parametrize("name", NAMES)
def test_odd_names_are_opened_and_found(tmp_path: Path, name: str) -> None:
    """A name with spaces, percent signs or other letters is read as it is, by path and by Spark's URI."""
    make(tmp_path, name)
    path = str(tmp_path / name)
    for location in (path, storage.from_spark("file://" + quote(path))):
        with storage.open_input(location) as stream:
            assert (stream.size(), stream.read()) == (1, b"x")
        assert storage.exists(location)
    assert not storage.exists(path + "x")


def test_an_unknown_scheme_is_an_error_of_the_options() -> None:
    """A location that no file system serves is refused by name, before any work."""
    with pytest.raises(ConfigError, match="gopher://host"):
        storage.open_filesystem("gopher://host/x")


def test_text_is_written_into_new_folders_replaced_and_read_back(tmp_path: Path) -> None:
    """What is written is read, the second text takes the place of the first, and no temporary file stays."""
    location = str(tmp_path / "new" / "folder" / "summary.json")
    assert storage.read_text(location) is None
    for text in ("first, and longer\n", "zweiter – Röntgen 胸"):
        storage.write_text(location, text)
        assert storage.read_text(location) == text
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["summary.json"]


def test_a_writer_that_dies_leaves_the_old_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the new text is complete the old one stands: here the process ends just before it takes the name."""

    class KilledError(RuntimeError): ...

    class DyingFileSystem(pafs.LocalFileSystem):  # type: ignore[misc]
        def move(self, source: str, target: str) -> None:
            raise KilledError

    location = str(tmp_path / "summary.json")
    storage.write_text(location, "old")
    monkeypatch.setattr(pafs, "LocalFileSystem", DyingFileSystem)
    with pytest.raises(KilledError):
        storage.write_text(location, "new")
    monkeypatch.undo()
    assert storage.read_text(location) == "old"
    assert list(listing.list_files(str(tmp_path), (".json", ".tmp"))) == ["summary.json"]


@pytest.mark.parametrize(
    ("location", "expected"),
    [("/data/a b%20.png", "file:///data/a b%20.png"), ("file:/data/x", "file:///data/x"), ("s3a://b/x/", "s3a://b/x")],
)
def test_locations_for_spark_have_a_scheme(location: str, expected: str) -> None:
    """A local path gets its scheme: without one Spark would use the default file system of the cluster."""
    assert storage.to_spark(location) == expected
    assert storage.scheme_of(location) == expected.partition(":")[0]
