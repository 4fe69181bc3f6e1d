"""Example X-rays for visitors without one: synthetic phantoms, drawn by this program."""

from __future__ import annotations

import functools
import io
from types import MappingProxyType

from PIL import Image

from cxrfeat.phantom.patients import Patient, Study, make_patient, make_studies
from cxrfeat.phantom.radiograph import draw
from cxrfeat.web.schemas import Example

SIDE = 768
"""Side length in pixels: the size at which the page shows an X-ray on a desktop screen."""

_SEED = 0

_EXAMPLES = MappingProxyType(
    {
        "no-finding": ("No finding", 1, 2),
        "cardiomegaly": ("Cardiomegaly", 3, 0),
        "effusion": ("Effusion", 24, 2),
        "pneumothorax": ("Pneumothorax", 77, 0),
        "mass": ("Mass", 6, 0),
    }
)
"""Name → title, patient and follow-up in the phantom data set: upright images with exactly that finding."""


def list_examples() -> list[Example]:
    """Return the examples in the order of the page."""
    return [
        Example(name=name, title=title, url=f"/examples/{name}.png", age=study.age, sex=patient.sex)
        for name, (title, *_) in _EXAMPLES.items()
        for patient, study in [_make_study(name)]
    ]


@functools.cache
def draw_example(name: str) -> bytes:
    """Draw an example as an 8-bit gray PNG, with the same bytes every time.

    Raises:
        KeyError: the name is unknown.
    """
    stream = io.BytesIO()
    Image.fromarray(draw(*_make_study(name), SIDE)).save(stream, "PNG")
    return stream.getvalue()


def _make_study(name: str) -> tuple[Patient, Study]:
    _, number, follow_up = _EXAMPLES[name]
    patient = make_patient(_SEED, number)
    return patient, make_studies(patient)[follow_up]
