"""Drawing of one phantom: anatomy, findings, exposure, noise, side marker and collimator edge."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from cxrfeat.phantom.anatomy import Chest, build_chest, make_shape
from cxrfeat.phantom.frame import Canvas, Frame, Plane, Random, as_plane, mottle
from cxrfeat.phantom.pathology import add_findings, deform
from cxrfeat.phantom.patients import EXPOSURE, POSE, Patient, Study
from cxrfeat.phantom.skeleton import add_skeleton

MIN_SIZE = 64
_SHARP_GRID = 512  # larger images are drawn on this grid or at half their size; only the noise has full resolution
_RELAXATION = 8.0  # cm of water that attenuate the beam to 1/e


def draw(patient: Patient, study: Study, size: int) -> npt.NDArray[np.uint8]:
    """Draw one phantom radiograph.

    Args:
        patient: patient whose anatomy is drawn.
        study: view, age and findings.
        size: pixels per side, at least 64.

    Returns:
        Gray image, uint8 (size, size), bright where the beam is attenuated.

    Raises:
        ValueError: ``size`` is too small.

    Example:
        >>> from cxrfeat.phantom.patients import make_patient, make_studies
        >>> patient = make_patient(seed=0, number=1)
        >>> draw(patient, make_studies(patient)[0], size=64).shape
        (64, 64)
    """
    if size < MIN_SIZE:
        raise ValueError(f"size is {size}; expected at least {MIN_SIZE} pixels")
    frame = _pose(patient, study, min(size, max(_SHARP_GRID, size // 2)))
    chest = build_chest(patient, frame, deform(make_shape(patient, study), patient, study.findings))
    add_skeleton(patient, chest)
    add_findings(chest, patient, study.findings)
    return _expose(chest, patient, study, size)


def _pose(patient: Patient, study: Study, grid: int) -> Frame:
    """Return the grid for a patient who is slightly rotated, scaled and shifted."""
    rng = patient.stream(POSE, study.follow_up)
    wobble = 1.6 if study.view == "AP" else 1.0
    angle = rng.normal(0, 0.018 * wobble)
    scale = patient.stream(POSE).normal(1.1, 0.045) * rng.normal(1.0, 0.015)
    return Frame(grid, angle, scale, dx=rng.normal(0, 0.012 * wobble), dy=rng.normal(0, 0.015 * wobble))


def _attenuation(chest: Chest, patient: Patient) -> Plane:
    """Return the total attenuation of the beam in cm of water, float32 (grid, grid)."""
    rng, grid = patient.stream(EXPOSURE), chest.frame.grid
    texture = 0.10 * mottle(rng, grid, 190) + 0.07 * mottle(rng, grid, 90) + 0.06 * mottle(rng, grid, 40)
    lung = chest.lung * (2.3 * chest.vessels + 1.6 * texture)
    inside = np.clip(chest.body * 0.5, 0, 1)  # no bones outside the skin
    return as_plane(np.clip(chest.body - chest.air + inside * (chest.density + lung), 0, None))


def _expose(chest: Chest, patient: Patient, study: Study, size: int) -> npt.NDArray[np.uint8]:
    rng, grid = patient.stream(EXPOSURE, study.follow_up), chest.frame.grid
    contrast = rng.normal(2.3, 0.15) - (0.35 if study.view == "AP" else 0.0)
    gain = rng.normal(1.33, 0.07)
    dimmed = 1 - np.exp(_attenuation(chest, patient) * np.float32(-gain / _RELAXATION))
    gray = 6 + 240 * dimmed ** np.float32(contrast)
    gray += (0.35 + gray / 180) * mottle(rng, grid, grid)
    _mark(gray, grid, rng)
    if size != grid:
        gray = np.asarray(Image.fromarray(gray).resize((size, size), Image.Resampling.BICUBIC))
    gray = gray + (0.5 + gray / 165) * rng.standard_normal((size, size), dtype=np.float32)
    return np.asarray(np.clip(np.rint(gray), 0, 255), dtype=np.uint8)


def _mark(gray: Plane, grid: int, rng: Random) -> None:
    """Add the side marker and the edge of the collimated field in place."""
    x, y, tilt = rng.uniform(0.36, 0.42), rng.uniform(0.03, 0.09), rng.normal(0, 0.15)
    if rng.random() < 0.75:
        canvas = Canvas(Frame(grid, tilt))
        canvas.stroke(np.array([(x, y), (x, y + 0.05), (x + 0.028, y + 0.05)]), 0.009, 1.0)
        gray += canvas.plane() * (250 - gray)
    edge = int(grid * rng.uniform(0.0, 0.02))
    if edge and rng.random() < 0.4:
        gray[:, -edge:] = 2
