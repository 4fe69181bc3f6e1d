"""Who is X-rayed: patients and their studies, each drawn from its own seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Literal

import numpy as np
import numpy.typing as npt

from cxrfeat.labels.findings import FINDINGS

# Relative frequency of each finding, in the order of FINDINGS; hernia is the rarest, as in the archive.
_WEIGHTS = np.array([1.3, 1.0, 1.3, 1.4, 1.0, 1.0, 0.8, 1.0, 1.1, 0.8, 0.8, 0.8, 0.9, 0.55])
_STUDIES_SHARE = (0.45, 0.28, 0.14, 0.08, 0.05)  # patients with 1, 2, ... 5 studies; two on average
_FINDINGS_SHARE = (0.5, 0.28, 0.16, 0.06)  # studies with 0, 1, 2, 3 findings
_AP_SHARE = 0.35
_RGBA_SHARE = 0.02

# One random stream a purpose, so that, say, one finding more does not move the ribs.
PERSON, STUDY, BODY, VESSELS, POSE, FILM, LESION = range(7)


@dataclass(frozen=True)
class Patient:
    """One invented patient.

    Attributes:
        number: Patient ID, from 1.
        seed: seed of the phantom set, at least 0.
        age: age in years at the first study.
        sex: ``"M"`` or ``"F"``.
    """

    number: int
    seed: int
    age: int
    sex: Literal["M", "F"]

    def stream(self, *purpose: int) -> np.random.Generator:
        """Return a fresh generator that depends on the seed, the patient and ``purpose`` only."""
        return _stream(self.seed, self.number, *purpose)


@dataclass(frozen=True)
class Study:
    """One image of a patient.

    Attributes:
        follow_up: index of the study within the patient, from 0.
        age: age in years at this study.
        view: ``"PA"`` or ``"AP"``.
        findings: names out of ``FINDINGS``, in that order; empty for a normal study.
        rgba: whether the file is stored as RGBA, as a few of the archive's are.
    """

    follow_up: int
    age: int
    view: Literal["PA", "AP"]
    findings: tuple[str, ...] = ()
    rgba: bool = False

    def __post_init__(self) -> None:
        """Refuse names that are no finding (ValueError)."""
        unknown = [name for name in self.findings if name not in FINDINGS]
        if unknown:
            raise ValueError(f"findings: expected names out of {FINDINGS}, got {unknown}")


def _stream(seed: int, *purpose: int) -> np.random.Generator:
    # As spawn key rather than entropy: there (5,) and (5, 0) are different streams.
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=purpose))


def make_patient(seed: int, number: int) -> Patient:
    """Return patient ``number`` (from 1) of the set with this ``seed`` (from 0).

    Raises:
        ValueError: a number or seed out of range.
    """
    if seed < 0 or number < 1:
        raise ValueError(f"expected seed >= 0 and patient number >= 1, got {seed} and {number}")
    rng = _stream(seed, number, PERSON)
    age = int(np.clip(rng.normal(50.0, 17.0), 18, 90))
    return Patient(number, seed, age, "M" if rng.random() < 0.56 else "F")


def make_studies(patient: Patient) -> tuple[Study, ...]:
    """Return the patient's studies (one to five), in follow-up order.

    A patient's findings come out of a small pool of the patient's own, so that
    they recur in the follow-ups as diseases do.
    """
    rng = patient.stream(PERSON, STUDY)
    studies = 1 + int(rng.choice(len(_STUDIES_SHARE), p=_STUDIES_SHARE))
    pool = rng.choice(len(FINDINGS), size=3, replace=False, p=_WEIGHTS / _WEIGHTS.sum())
    return tuple(_make_study(patient, follow_up, pool) for follow_up in range(studies))


def _make_study(patient: Patient, follow_up: int, pool: npt.NDArray[np.int64]) -> Study:
    rng = patient.stream(STUDY, follow_up)
    number = int(rng.choice(len(_FINDINGS_SHARE), p=_FINDINGS_SHARE))
    chosen = sorted(rng.choice(pool, size=number, replace=False))
    return Study(
        follow_up=follow_up,
        age=patient.age + follow_up // 2,
        view="AP" if rng.random() < _AP_SHARE else "PA",
        findings=tuple(FINDINGS[index] for index in chosen),
        rgba=bool(rng.random() < _RGBA_SHARE),
    )


def cohort(seed: int, images: int) -> Iterator[tuple[Patient, Study]]:
    """Yield the first ``images`` studies of the endless set with this ``seed``, patient by patient."""
    patients = (make_patient(seed, number) for number in count(1))
    return islice(((patient, study) for patient in patients for study in make_studies(patient)), images)
