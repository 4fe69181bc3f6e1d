"""Train, val and test splits from a stable hash of the patient, so that adding images never changes a split.

All images of a patient share a split. An image-level split leaks patients from train into test and exists only to
reproduce the results of 2018, which used one.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from cxrfeat.errors import ConfigError, DatasetIntegrityError
from cxrfeat.io.schema import Split

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


def check_no_patient_in_two_splits(assignments: Iterable[tuple[str, str]]) -> None:
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
