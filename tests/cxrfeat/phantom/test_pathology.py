"""Appearance of the findings: visible, at the right place, and additive."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from cxrfeat.labels.findings import FINDINGS
from cxrfeat.phantom.patients import Patient, Study, make_patient
from cxrfeat.phantom.radiograph import draw

SIZE = 64
NORMAL = Study(follow_up=0, age=50, view="PA")


@functools.cache
def change(finding: str, number: int) -> npt.NDArray[np.float64]:
    """Return the difference in brightness between a study with a finding and a normal one, (96, 96)."""
    patient: Patient = make_patient(7, number)
    ill = draw(patient, replace(NORMAL, findings=(finding,)), 96)
    return ill.astype(float) - draw(patient, NORMAL, 96)


def changed(finding: str, number: int) -> npt.NDArray[np.bool_]:
    return np.abs(change(finding, number)) > 6


def centre(finding: str, number: int) -> tuple[float, float]:
    """Return mean height (0 top, 1 bottom) and mean distance from the midline of the changed pixels."""
    rows, columns = np.nonzero(changed(finding, number))
    return float(rows.mean() / 96), float(np.abs(columns / 96 - 0.5).mean())


PATIENTS = (1, 2)


@pytest.mark.parametrize("number", PATIENTS)
@pytest.mark.parametrize("finding", FINDINGS)
def test_each_finding_shows(finding: str, number: int) -> None:
    """Every finding clearly changes a part of the image, but not the corner beside the neck."""
    difference = change(finding, number)
    assert np.abs(difference).max() > 20
    assert 0.0005 < changed(finding, number).mean() < 0.5
    assert np.abs(difference[:4, :4]).max() <= 1


@pytest.mark.parametrize("number", PATIENTS)
@pytest.mark.parametrize(
    ("finding", "heights", "distances"),
    [
        ("Atelectasis", (0.6, 0.95), (0.08, 0.35)),
        ("Cardiomegaly", (0.5, 0.8), (0.08, 0.25)),
        ("Effusion", (0.65, 1.0), (0.15, 0.4)),
        ("Pneumothorax", (0.3, 0.65), (0.12, 0.3)),
        ("Edema", (0.42, 0.58), (0.1, 0.25)),
        ("Fibrosis", (0.6, 0.95), (0.15, 0.35)),
        ("Pleural_Thickening", (0.4, 0.8), (0.24, 0.42)),
        ("Hernia", (0.6, 0.9), (0.0, 0.12)),
    ],
)
def test_findings_are_at_their_typical_place(
    finding: str, heights: tuple[float, float], distances: tuple[float, float], number: int
) -> None:
    """Height and distance from the midline are in the expected ranges."""
    height, distance = centre(finding, number)
    assert heights[0] < height < heights[1]
    assert distances[0] < distance < distances[1]


@pytest.mark.parametrize("number", PATIENTS)
@pytest.mark.parametrize(
    "finding",
    [
        "Cardiomegaly",
        "Effusion",
        "Infiltration",
        "Mass",
        "Nodule",
        "Pneumonia",
        "Consolidation",
        "Edema",
        "Fibrosis",
        "Pleural_Thickening",
    ],
)
def test_opacities_only_brighten(finding: str, number: int) -> None:
    """Tissue that displaces air attenuates the beam, so no pixel gets darker."""
    assert change(finding, number).min() > -4


@pytest.mark.parametrize("number", PATIENTS)
def test_air_darkens(number: int) -> None:
    """Emphysema darkens the whole image, a pneumothorax the outer lung on one side."""
    assert change("Emphysema", number).mean() < -4
    dark = change("Pneumothorax", number) < -6
    left, right = dark[:, :48].sum(), dark[:, 48:].sum()
    assert max(left, right) > 20 * min(left, right)


@pytest.mark.parametrize("number", PATIENTS)
def test_a_mass_is_larger_than_a_nodule(number: int) -> None:
    """One mass covers more area than the nodules, and less than a lobe."""
    nodule, mass, lobe = (changed(finding, number).mean() for finding in ("Nodule", "Mass", "Consolidation"))
    assert nodule < mass < 0.6 * lobe


def test_edema_is_on_both_sides() -> None:
    """Both sides change by a similar area."""
    wings = changed("Edema", 1)
    left, right = wings[:, :48].mean(), wings[:, 48:].mean()
    assert 0.5 < left / right < 2


def test_findings_add_up_in_any_order() -> None:
    """The order of the findings of a study does not change the image."""
    patient = make_patient(0, 2)
    one, other = (
        draw(patient, replace(NORMAL, findings=names), SIZE) for names in (("Mass", "Edema"), ("Edema", "Mass"))
    )
    np.testing.assert_array_equal(one, other)
