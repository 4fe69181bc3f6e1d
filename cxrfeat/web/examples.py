"""Films for visitors who have none: phantoms, drawn here, of nobody."""

from __future__ import annotations

import functools
import io
from types import MappingProxyType

from PIL import Image

from cxrfeat.phantom.patients import Patient, Study, make_patient, make_studies
from cxrfeat.phantom.radiograph import draw
from cxrfeat.web.schemas import Example

SIDE = 768
"""Pixels: as large as the page shows a film on a desk."""

_SEED = 0

_CHOSEN = MappingProxyType(
    {
        "no-finding": ("No finding", 1, 2),
        "cardiomegaly": ("Cardiomegaly", 3, 0),
        "effusion": ("Effusion", 24, 2),
        "pneumothorax": ("Pneumothorax", 77, 0),
        "mass": ("Mass", 6, 0),
    }
)
"""Name → title, patient and follow-up in the phantom set: upright films with just that finding."""


def list_examples() -> list[Example]:
    """Return what there is, in the order of the page."""
    return [
        Example(name=name, title=title, url=f"/examples/{name}.png", age=study.age, sex=patient.sex)
        for name, (title, *_) in _CHOSEN.items()
        for patient, study in [_find(name)]
    ]


@functools.cache
def draw_example(name: str) -> bytes:
    """Draw one as an 8-bit gray PNG, the same bytes each time.

    Raises:
        KeyError: an unknown name.
    """
    stream = io.BytesIO()
    Image.fromarray(draw(*_find(name), SIDE)).save(stream, "PNG")
    return stream.getvalue()


def _find(name: str) -> tuple[Patient, Study]:
    _, number, follow_up = _CHOSEN[name]
    patient = make_patient(_SEED, number)
    return patient, make_studies(patient)[follow_up]
