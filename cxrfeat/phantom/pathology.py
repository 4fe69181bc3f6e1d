"""The fourteen findings, each drawn as a radiologist's textbook would caricature it.

Some change the patient's shape before anything is drawn; most displace air from
the lungs or add density afterwards. Each takes its place and size from a random
stream of its own, so a patient's nodule is at the same spot in every study.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from cxrfeat.labels.findings import FINDINGS
from cxrfeat.phantom import lesions
from cxrfeat.phantom.anatomy import Chest, Shape
from cxrfeat.phantom.patients import LESION, Patient


def reshape(shape: Shape, patient: Patient, findings: Collection[str]) -> Shape:
    """Return ``shape`` as the ``findings`` deform it."""
    for index, name in enumerate(FINDINGS):
        if name in findings and name in _SHAPES:
            shape = _SHAPES[name](shape, patient.stream(LESION, index))
    return shape


def add_findings(chest: Chest, patient: Patient, findings: Collection[str]) -> None:
    """Draw the ``findings`` into ``chest``, in place."""
    for index, name in enumerate(FINDINGS):
        if name in findings and name in _OVERLAYS:
            _OVERLAYS[name](chest, patient.stream(LESION, index))


def _sink(shape: Shape, rng: np.random.Generator) -> Shape:
    """Emphysema: large clear lungs push the diaphragm flat and leave a narrow heart."""
    low = rng.uniform(0.04, 0.06)
    return replace(
        shape,
        dome=(shape.dome[0] + low, shape.dome[1] + low),
        fall=0.35 * shape.fall,
        heart=0.82 * shape.heart,
        air=1.13,
        vessels=0.45,
    )


def _widen(shape: Shape, rng: np.random.Generator) -> Shape:
    return replace(shape, heart=rng.uniform(1.27, 1.42) * shape.heart)


def _shrink(shape: Shape, rng: np.random.Generator) -> Shape:
    """Atelectasis: the dome rises where lung has lost volume."""
    side, lost = lesions.either_side(rng), rng.uniform(0.035, 0.055)
    left, right = shape.dome
    return replace(shape, dome=(left - lost, right) if side < 0 else (left, right - lost))


_SHAPES = {"Atelectasis": _shrink, "Cardiomegaly": _widen, "Emphysema": _sink}
_OVERLAYS = {
    "Atelectasis": lesions.atelectasis,
    "Effusion": lesions.effusion,
    "Infiltration": lesions.infiltration,
    "Mass": lesions.mass,
    "Nodule": lesions.nodule,
    "Pneumonia": lesions.pneumonia,
    "Pneumothorax": lesions.pneumothorax,
    "Consolidation": lesions.consolidation,
    "Edema": lesions.edema,
    "Fibrosis": lesions.fibrosis,
    "Pleural_Thickening": lesions.pleural_thickening,
    "Hernia": lesions.hernia,
}
