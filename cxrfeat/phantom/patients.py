"""Synthetic patients and their studies, drawn from independent random streams."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Literal

import numpy as np

from cxrfeat.labels.findings import FINDINGS

# Relative frequency of each finding, in the order of FINDINGS; hernia is the rarest, as in the archive.
_WEIGHTS = np.array([1.3, 1.0, 1.3, 1.4, 1.0, 1.0, 0.8, 1.0, 1.1, 0.8, 0.8, 0.8, 0.9, 0.55])
_STUDIES_SHARE = (0.45, 0.28, 0.14, 0.08, 0.05)  # of patients with 1, 2, ... 5 studies; two on average
_FINDINGS_SHARE = (0.5, 0.28, 0.16, 0.06)  # of studies with 0, 1, 2, 3 findings
_AP_SHARE = 0.35
_RGBA_SHARE = 0.02

# Random streams, one per purpose, so that for example an additional finding does not move the ribs.
PERSON, STUDY, BODY, VESSELS, POSE, EXPOSURE, LESION = range(7)


@dataclass(frozen=True)
class Patient:
    """One synthetic patient."""

    number: int  # Patient ID, from 1
    seed: int  # seed of the phantom set, at least 0
    age: int  # years at the first study
    sex: Literal["M", "F"]

    def stream(self, *purpose: int) -> np.random.Generator:
        """Return a new generator that depends only on the seed, the patient and ``purpose``."""
        return _stream(self.seed, self.number, *purpose)


@dataclass(frozen=True)
class Study:
    """One image of a patient.

    Raises:
        ValueError: a finding is unknown.
    """

    follow_up: int  # index of the study within the patient, from 0
    age: int  # years at this study
    view: Literal["PA", "AP"]
    findings: tuple[str, ...] = ()  # names in the order of FINDINGS; empty for a normal study
    rgba: bool = False  # stored as RGBA, like a few files of the archive

    def __post_init__(self) -> None:
        unknown = [name for name in self.findings if name not in FINDINGS]
        if unknown:
            raise ValueError(f"unknown findings {', '.join(unknown)}; expected names from {', '.join(FINDINGS)}")


def _stream(seed: int, *purpose: int) -> np.random.Generator:
    # Spawn key rather than entropy, where (5,) and (5, 0) would give the same stream.
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=purpose))


def make_patient(seed: int, number: int) -> Patient:
    """Return patient ``number`` (from 1) of the set with this ``seed`` (from 0).

    Raises:
        ValueError: number or seed is out of range.
    """
    if seed < 0 or number < 1:
        raise ValueError(f"seed and patient number are {seed} and {number}; expected at least 0 and 1")
    rng = _stream(seed, number, PERSON)
    age = int(np.clip(rng.normal(50.0, 17.0), 18, 90))
    return Patient(number, seed, age, "M" if rng.random() < 0.56 else "F")


def make_studies(patient: Patient) -> tuple[Study, ...]:
    """Return the one to five studies of a patient in follow-up order.

    Findings are drawn from three per patient, so that they recur in follow-ups like a disease.
    """
    rng = patient.stream(PERSON, STUDY)
    number = 1 + int(rng.choice(len(_STUDIES_SHARE), p=_STUDIES_SHARE))
    pool = rng.choice(len(FINDINGS), size=3, replace=False, p=_WEIGHTS / _WEIGHTS.sum())
    studies = []
    for follow_up in range(number):
        rng = patient.stream(STUDY, follow_up)
        drawn = rng.choice(pool, size=rng.choice(len(_FINDINGS_SHARE), p=_FINDINGS_SHARE), replace=False)
        findings = tuple(FINDINGS[index] for index in sorted(drawn))
        view: Literal["PA", "AP"] = "AP" if rng.random() < _AP_SHARE else "PA"
        studies.append(Study(follow_up, patient.age + follow_up // 2, view, findings, rgba=rng.random() < _RGBA_SHARE))
    return tuple(studies)


def cohort(seed: int, images: int) -> Iterator[tuple[Patient, Study]]:
    """Yield the first ``images`` studies of the infinite set with this ``seed``, patient by patient."""
    patients = (make_patient(seed, number) for number in count(1))
    return islice(((patient, study) for patient in patients for study in make_studies(patient)), images)
