"""Splits are reproducible, have the stated shares, and never divide a patient."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrfeat.errors import DatasetIntegrityError
from cxrfeat.io.schema import Split
from cxrfeat.labels.splits import (
    check_patients_disjoint,
    digest_names,
    hash_fraction,
    split_by_hash,
    split_train_val,
)

PATIENTS = [str(number) for number in range(1, 30_001)]

ids = st.text(max_size=12)


def reference_fraction(key: str) -> float:
    """Return the first 52 bits of the salted SHA-256 as a fraction, by way of the digest's bytes."""
    return (int.from_bytes(hashlib.sha256(b"cxrfeat-split-1:" + key.encode()).digest()[:8], "big") >> 12) / 2**52


@pytest.mark.parametrize(
    ("key", "fraction", "split", "train_val"),
    [
        ("1", 0.27372654120547324, "train", "train"),
        ("2", 0.06943843680600192, "train", "val"),
        ("3", 0.9630379970537095, "test", "train"),
        ("10", 0.7834520818396828, "val", "train"),
        ("13118", 0.8624003208167907, "test", "train"),
        ("30805", 0.8571287616542225, "test", "train"),
        ("00000001_000.png", 0.6134212560883341, "train", "train"),
        ("", 0.4273522829045511, "train", "train"),
        ("Ünï", 0.7474033571413092, "val", "train"),
    ],
)
def test_pinned_patients_never_move(key: str, fraction: float, split: str, train_val: str) -> None:
    """A split of today is the split of every later version, machine and Python."""
    assert hash_fraction(key) == fraction
    assert (split_by_hash(key).value, split_train_val(key).value) == (split, train_val)


@given(ids)
def test_the_fraction_is_that_of_sha256(key: str) -> None:
    """The hash is the one that is written down, and a fraction below 1."""
    assert hash_fraction(key) == reference_fraction(key)
    assert 0 <= hash_fraction(key) < 1


def test_the_split_follows_the_fraction() -> None:
    """Train is below 0.7, val from there to 0.8, test above; of the official train_val list, val is below 1/8."""
    for patient in PATIENTS:
        fraction = reference_fraction(patient)
        assert split_by_hash(patient) == (
            Split.TRAIN if fraction < 0.7 else Split.VAL if fraction < 0.8 else Split.TEST
        )
        assert split_train_val(patient) == (Split.VAL if fraction < 1 / 8 else Split.TRAIN)


def test_shares_are_about_70_10_20() -> None:
    """Over as many patients as the archive has, each share is right within a percentage point."""
    counts = Counter(map(split_by_hash, PATIENTS))
    shares = [counts[split] / len(PATIENTS) for split in (Split.TRAIN, Split.VAL, Split.TEST)]
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.01)


def test_one_patient_in_eight_of_the_official_list_is_val() -> None:
    """The official test list takes a fifth, so an eighth of the rest is a tenth of all."""
    counts = Counter(map(split_train_val, PATIENTS))
    assert set(counts) == {Split.TRAIN, Split.VAL}
    assert counts[Split.VAL] / len(PATIENTS) == pytest.approx(1 / 8, abs=0.01)


@given(st.lists(ids), st.lists(ids))
def test_new_patients_change_no_split(before: list[str], added: list[str]) -> None:
    """Adding patients never changes the split of the others."""
    first = {patient: split_by_hash(patient) for patient in before}
    second = {patient: split_by_hash(patient) for patient in added + before}
    assert first.items() <= second.items()


patient_images = st.lists(st.tuples(ids, ids))


@given(patient_images)
def test_a_split_by_patient_never_tears_one(images: list[tuple[str, str]]) -> None:
    """A split by patient passes the check for any number of images per patient."""
    check_patients_disjoint((patient, split_by_hash(patient)) for patient, _ in images)
    check_patients_disjoint((patient, split_train_val(patient)) for patient, _ in images)


@given(patient_images, ids, st.permutations(list(Split)))
def test_a_torn_patient_is_found_and_named(images: list[tuple[str, str]], torn: str, splits: list[Split]) -> None:
    """One patient in two splits is found among any others, with both splits."""
    pairs = [(patient, split_by_hash(patient).value) for patient, _ in images if patient != torn]
    with pytest.raises(DatasetIntegrityError) as found:
        check_patients_disjoint([(torn, splits[0].value), *pairs, (torn, splits[1].value)])
    named = ", ".join(sorted(split.value for split in splits[:2]))
    assert str(found.value) == f"1 patients are in more than one split; the first: {torn} ({named})"


def test_of_many_torn_patients_the_first_five_are_named() -> None:
    """The message stays short and gives the number of all; the first are those of the order of names."""
    with pytest.raises(DatasetIntegrityError, match=r"^9 patients") as found:
        check_patients_disjoint((f"p{number}", split) for split in ("train", "test") for number in range(8, -1, -1))
    assert [f"p{number}" in str(found.value) for number in range(9)] == [True] * 5 + [False] * 4


def test_an_image_level_split_leaks() -> None:
    """Splitting by image, as in 2018, puts patients into two splits: the check sees it."""
    images = [(f"p{number % 50}", f"image{number}") for number in range(500)]
    with pytest.raises(DatasetIntegrityError):
        check_patients_disjoint((patient, split_by_hash(image)) for patient, image in images)


def test_a_list_is_known_by_its_names_whatever_their_order() -> None:
    """The digest is that of the sorted lines; one name more or less is another list."""
    expected = hashlib.sha256(b"a.png\nb.png").hexdigest()
    assert digest_names(["b.png", "a.png"]) == digest_names({"a.png", "b.png"}) == expected
    assert digest_names(["a.png"]) != expected
