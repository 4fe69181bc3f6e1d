"""Train, val and test splits from a stable hash of the patient, so that adding images never changes a split.

All images of a patient share a split. An image-level split leaks patients from train into test and exists only to
reproduce the results of 2018, which used one.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa
import pyarrow.compute as pc

from cxrfeat.errors import ConfigError, DatasetIntegrityError, MetadataError
from cxrfeat.io.schema import Split, Status
from cxrfeat.labels.official_lists import TEST, TRAIN_VAL, OfficialLists

TRAIN_SHARE, VAL_SHARE = 0.7, 0.1
"""Shares of patients without official lists; the rest is test."""

VAL_SHARE_OF_TRAIN_VAL = VAL_SHARE / (TRAIN_SHARE + VAL_SHARE)
"""Share of val among the official train_val patients; as test is 20 %, the result is again about 70/10/20."""

SALT = "cxrfeat-split-1:"
"""Prefix of all hashed keys; a different salt would give different splits."""

HASH_DIGITS = 13
"""Number of leading hex digits of the SHA-256 in use: 52 bits, which a double represents exactly."""

OFFICIAL_TEST_DIGEST = "38ca5ef7f756092946f57c1a59faca882ed589a1ab1f72590b45dc06c6d5e1cc"
"""Result of :func:`digest_names` for the 25,596 images of NIH's test_list.txt."""


class SplitLevel(StrEnum):
    """Unit that stays together in one split."""

    PATIENT = "patient"
    IMAGE = "image"


@dataclass(frozen=True)
class SplitRule:
    """Rule that assigns images to splits.

    Attributes:
        level: unit that stays together in one split.
        train_val_list, test_list: NIH's files with one image name per line; both or neither.
    """

    level: SplitLevel = SplitLevel.PATIENT
    train_val_list: str | None = None
    test_list: str | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError if one list is given without the other, or lists are combined with image level."""
        if (self.train_val_list is None) != (self.test_list is None):
            raise ConfigError("only one official list is given; give both --train-val-list and --test-list")
        if self.train_val_list is not None and self.level == SplitLevel.IMAGE:
            raise ConfigError("the official lists split by patient and cannot be combined with --split image")


def hash_fraction(key: str) -> float:
    """Map a key to a uniform, reproducible number in [0, 1): the leading 52 bits of SHA-256 of the salted key."""
    digits = hashlib.sha256((SALT + key).encode()).hexdigest()[:HASH_DIGITS]
    return int(digits, 16) / 16.0**HASH_DIGITS


def split_by_hash(key: str) -> Split:
    """Return the split of a patient (at image level, of an image): about 70 % train, 10 % val, 20 % test.

    Example:
        >>> [split_by_hash(patient).value for patient in ("1", "2", "3", "4")]
        ['train', 'train', 'test', 'train']
    """
    fraction = hash_fraction(key)
    if fraction < TRAIN_SHARE:
        return Split.TRAIN
    return Split.VAL if fraction < TRAIN_SHARE + VAL_SHARE else Split.TEST


def split_train_val(patient_id: str) -> Split:
    """Return the split of a patient in the official train_val list: val for one in eight, else train."""
    return Split.VAL if hash_fraction(patient_id) < VAL_SHARE_OF_TRAIN_VAL else Split.TRAIN


def digest_names(names: Iterable[str]) -> str:
    """Return the SHA-256 of a set of image names, independent of their order, to identify a list."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


def assign_splits(lines: pa.Table, rule: SplitRule, lists: OfficialLists | None) -> pa.Array:
    """Return the split of every accepted metadata line, null for rejected ones.

    Official lists decide the split of every patient with an image in one of them. Without lists, the table's own split
    column decides. All other patients, or images at image level, are split by a hash.

    Args:
        lines: (N rows) :data:`cxrfeat.io.schema.METADATA_LINES` with the table's own splits.
        rule: the rule.
        lists: the lists that the rule names.

    Raises:
        MetadataError: a patient has images in both lists; the message names up to five patients.
    """
    accepted = pc.equal(lines["status"], Status.OK.value).to_pylist()
    patients, own = lines["patient_id"].to_pylist(), lines["split"].to_pylist()
    names, paths = lines["image_index"].to_pylist(), lines["image_path"].to_pylist()
    images = [path or name for path, name in zip(paths, names, strict=True)]
    keys = images if rule.level == SplitLevel.IMAGE else patients
    if lists is not None:
        own = _splits_of_patients(patients, lists.find(images), accepted, lists)
    hashed = {key: split_by_hash(key).value for key in set(keys) if key is not None}
    splits = [
        (known or hashed[key]) if usable else None for known, key, usable in zip(own, keys, accepted, strict=True)
    ]
    return pa.array(splits, pa.string())


def _splits_of_patients(
    patients: Sequence[str | None], found: Sequence[str | None], accepted: Sequence[bool], lists: OfficialLists
) -> list[str | None]:
    """Return the split of each line's patient, None for patients without an image in a list."""
    listed: dict[str, set[str]] = defaultdict(set)
    for patient, name, usable in zip(patients, found, accepted, strict=True):
        if usable and patient is not None and name is not None:
            listed[patient].add(name)
    in_both = sorted(patient for patient, found_in in listed.items() if len(found_in) > 1)
    if in_both:
        raise MetadataError(
            f"{len(in_both)} patients have images in both {lists.locations[TRAIN_VAL]} and {lists.locations[TEST]}; "
            f"expected each patient in one list only. The first: {', '.join(in_both[:5])}"
        )
    splits = {
        patient: Split.TEST.value if TEST in names else split_train_val(patient).value
        for patient, names in listed.items()
    }
    return [splits.get(patient) if patient is not None else None for patient in patients]


def check_patients_disjoint(assignments: Iterable[tuple[str, str]]) -> None:
    """Check that no patient has more than one split, given (patient, split) pairs.

    Raises:
        DatasetIntegrityError: a patient is in more than one split; the message names the first five.
    """
    splits: dict[str, set[str]] = defaultdict(set)
    for patient, split in assignments:
        splits[patient].add(split)
    leaking = [f"{patient} ({', '.join(sorted(found))})" for patient, found in sorted(splits.items()) if len(found) > 1]
    if leaking:
        raise DatasetIntegrityError(
            f"{len(leaking)} patients are in more than one split; the first: {', '.join(leaking[:5])}"
        )
