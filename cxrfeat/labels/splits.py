"""Which split a patient belongs to: a stable hash, so that adding images never moves anybody.

All images of a patient share a split; an image-level split leaks patients from train into test and
exists only to reproduce numbers of 2018, which were obtained that way.
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
"""Shares of patients without official lists; test takes the rest."""

VAL_SHARE_OF_TRAIN_VAL = VAL_SHARE / (TRAIN_SHARE + VAL_SHARE)
"""Share of the official train_val patients that becomes val: with test at 20 %, again about 70/10/20."""

SALT = "cxrfeat-split-1:"
"""Prefix of everything that is hashed; another salt would be another split."""

HASH_DIGITS = 13
"""Hex digits of the SHA-256 that are used: 52 bits, which a double holds exactly."""


OFFICIAL_TEST_DIGEST = "38ca5ef7f756092946f57c1a59faca882ed589a1ab1f72590b45dc06c6d5e1cc"
"""What :func:`digest_names` gives for the 25,596 images of NIH's test_list.txt."""


class SplitLevel(StrEnum):
    """What is kept together in one split."""

    PATIENT = "patient"
    IMAGE = "image"


@dataclass(frozen=True)
class SplitRule:
    """How images are divided.

    Attributes:
        level: what is kept together.
        train_val_list, test_list: files with one image name a line, as NIH publishes them; both or neither.
    """

    level: SplitLevel = SplitLevel.PATIENT
    train_val_list: str | None = None
    test_list: str | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError for one list without the other, or lists at image level."""
        if (self.train_val_list is None) != (self.test_list is None):
            raise ConfigError("one official list without the other; give both --train-val-list and --test-list")
        if self.train_val_list is not None and self.level == SplitLevel.IMAGE:
            raise ConfigError("the official lists divide patients; they can't be used with --split image")


def hash_fraction(key: str) -> float:
    """Map a key to [0, 1), evenly and for ever: the leading 52 bits of SHA-256 of the salted key."""
    digits = hashlib.sha256((SALT + key).encode()).hexdigest()[:HASH_DIGITS]
    return int(digits, 16) / 16.0**HASH_DIGITS


def split_by_hash(key: str) -> Split:
    """Give a patient (or, at image level, an image) its split: about 70 % train, 10 % val, 20 % test.

    Example:
        >>> [split_by_hash(patient).value for patient in ("1", "2", "3", "4")]
        ['train', 'train', 'test', 'train']
    """
    fraction = hash_fraction(key)
    if fraction < TRAIN_SHARE:
        return Split.TRAIN
    return Split.VAL if fraction < TRAIN_SHARE + VAL_SHARE else Split.TEST


def split_train_val(patient_id: str) -> Split:
    """Give a patient of the official train_val list its split: one patient in eight goes to val."""
    return Split.VAL if hash_fraction(patient_id) < VAL_SHARE_OF_TRAIN_VAL else Split.TRAIN


def digest_names(names: Iterable[str]) -> str:
    """Return the SHA-256 of a set of image names, whatever their order: what tells one list from another."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


def check_no_patient_in_two_splits(assignments: Iterable[tuple[str, str]]) -> None:
    """Check (patient, split) pairs, repeats allowed.

    Raises:
        DatasetIntegrityError: a patient in more than one split; the message names the first five.
    """
    splits: dict[str, set[str]] = defaultdict(set)
    for patient, split in assignments:
        splits[patient].add(split)
    leaking = {patient: sorted(found) for patient, found in sorted(splits.items()) if len(found) > 1}
    if leaking:
        raise DatasetIntegrityError(
            f"{len(leaking)} patients are in more than one split; the first: {dict(list(leaking.items())[:5])}"
        )
