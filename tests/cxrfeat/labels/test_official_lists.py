"""Official split lists in every form in which people keep them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxrfeat.errors import ConfigError, MetadataError
from cxrfeat.labels.image_metadata import ImageMetadata, load_image_metadata
from cxrfeat.labels.official_lists import read_list, read_lists
from cxrfeat.labels.splits import SplitRule, split_by_hash, split_train_val
from tests.nih_lines import HEADER_SHORT

FORMS: dict[str, bytes] = {
    "plain": b"a.png\nb.png\n",
    "no end": b"a.png\nb.png",
    "CRLF": b"a.png\r\nb.png\r\n",
    "CR": b"a.png\rb.png\r",
    "BOM": b"\xef\xbb\xbfa.png\nb.png\n",
    "UTF-16": "\ufeffa.png\nb.png\n".encode("utf-16-le"),
    "blank lines": b"\n a.png \n\n\tb.png\n\n",
    "repeats": b"a.png\nb.png\na.png\n",
    "folders": b"images_001/images/a.png\nimages_002/images/b.png\n",
    "backslashes": b"images\\a.png\nimages\\b.png\n",
    "dot": b"./a.png\n./b.png\n",
    "absolute": b"/data/x/a.png\n/data/y/b.png\n",
    "no suffix": b"a\nb\n",
    "other suffix": b"a.jpg\nb.JPG\n",
    "double quotes": b'"a.png"\n"b.png"\n',
    "single quotes": b"'a.png'\n'b.png'\n",
    "labels": b"a.png 0 0 1 0 0 0\nb.png 1 0 0 0 0 0\n",
    "one label": b"a.png 0\nb.png 1\n",
    "tabs": b"a.png\tMass\t58\nb.png\t\t\n",
    "commas": b"a.png,Mass,58\nb.png,Edema|Mass,\n",
    "quotes and commas": b'"a.png","Mass, or not"\n"b.png",x\n',
    "semicolons": b"a.png;1\nb.png;2\n",
    "missing names": b"a.png\nnan\nb.png\nNA\n",
}


@pytest.mark.parametrize("content", FORMS.values(), ids=FORMS)
def test_every_form_names_the_same_images(tmp_path: Path, content: bytes) -> None:
    """Folders, suffixes, quotes, further columns, encodings and line ends do not matter."""
    (tmp_path / "train_val.txt").write_bytes(content)
    (tmp_path / "test.txt").write_text("c.png\n")
    lists = read_lists(str(tmp_path / "train_val.txt"), str(tmp_path / "test.txt"))
    folders = ["images_001/images/a.png", "images_002/images/b.png"]
    if content == FORMS["absolute"]:
        folders = ["data/x/a.png", "data/y/b.png"]
    elif content == FORMS["backslashes"]:
        folders = ["images/a.png", "images/b.png"]
    assert len(lists.names["train_val"]) == 2
    assert lists.find([*folders, "c.png", "d/c.png", "e.png"]) == ["train_val", "train_val", "test", "test", None]


def test_names_with_blanks_stay_whole(tmp_path: Path) -> None:
    """A number after a blank belongs to the name unless a suffix or another number shows that it does not."""
    (tmp_path / "list.txt").write_text("img 1\nimg 2\nmy img.png\nx.png 1\n")
    assert read_list(str(tmp_path / "list.txt")) == ["img 1", "img 2", "my img.png", "x.png"]


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "is empty"), (b"\n \nnan\n", "is empty"), (b"\xff\xfex", "UTF-16")]
)
def test_unusable_lists_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """A list without names is not a list."""
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(MetadataError, match=message):
        read_list(str(tmp_path / "list.txt"))


def load(folder: Path, train_val: str, test: str, images: list[str], max_unmatched: float = 0.01) -> ImageMetadata:
    """Load ten images of five patients with two lists."""
    lines = [f"{n:02}.png,Mass,0,{n // 2},1,M,PA" for n in range(10)]
    for name, text in (("m.csv", "\n".join([HEADER_SHORT, *lines])), ("a.txt", train_val), ("b.txt", test)):
        (folder / name).write_text(text)
    rule = SplitRule(train_val_list=str(folder / "a.txt"), test_list=str(folder / "b.txt"))
    return load_image_metadata([str(folder / "m.csv")], images, rule=rule, max_unmatched=max_unmatched)


IMAGES = [f"d/{n:02}.png" for n in range(10)]


def test_lists_decide_for_whole_patients(tmp_path: Path) -> None:
    """A patient with one image in a list has all images in its split; the others are hashed."""
    known = load(tmp_path, "00.png\n03.png\n", "04.png\n", IMAGES, 1.0)
    splits = known.matcher.match(IMAGES)["split"].to_pylist()
    assert splits[0:4] == [split_train_val(patient).value for patient in "0011"]
    assert splits[4:6] == ["test", "test"]
    assert splits[6:] == [split_by_hash(patient).value for patient in "3344"]
    assert f"{tmp_path}/b.txt: 1 names; 1 of 10 images" in known.messages


def test_lists_of_another_data_set_are_refused(tmp_path: Path) -> None:
    """A list of which nothing knows a name is an error that shows a name of each side."""
    with pytest.raises(ConfigError, match=r"none of its 2 names is known .* for example zz\.png, the images d/00\.png"):
        load(tmp_path, "00.png\n", "zz.png\nzy.png\n", IMAGES, 1.0)


def test_too_many_images_in_neither_list_are_refused(tmp_path: Path) -> None:
    """The error counts them and shows one; the limit is an option."""
    names = [f"{n:02}.png\n" for n in range(10)]
    with pytest.raises(ConfigError, match=r"2 of 10 images are in neither list, for example d/08\.png; .*10\.0%"):
        load(tmp_path, "".join(names[:6]), "".join(names[6:8]), IMAGES, 0.1)
    load(tmp_path, "".join(names[:6]), "".join(names[6:8]), IMAGES, 0.2)


def test_a_patient_in_both_lists_is_refused(tmp_path: Path) -> None:
    """No patient is in two splits; the error names the patient."""
    with pytest.raises(MetadataError, match=r"1 patients have images in both .* The first: 0"):
        load(tmp_path, "00.png\n", "01.png\n", IMAGES, 1.0)
