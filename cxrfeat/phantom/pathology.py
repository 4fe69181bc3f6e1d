"""Drawings of the 14 findings: simplified, exaggerated textbook appearances.

Three findings first change the dimensions of the patient; most then displace air in the lungs or add density. Each
takes its place and size from its own random stream, so a patient's nodule is at the same place in every study.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from cxrfeat.labels.findings import FINDINGS
from cxrfeat.phantom.anatomy import Chest, Shape
from cxrfeat.phantom.frame import Canvas, Plane, Random, as_plane, ellipse, mottle, oval, smoothstep
from cxrfeat.phantom.patients import LESION, Patient


def deform(shape: Shape, patient: Patient, findings: Collection[str]) -> Shape:
    """Return ``shape`` as changed by the ``findings``."""
    for index, name in enumerate(FINDINGS):
        if name in findings and name in _DEFORMATIONS:
            shape = _DEFORMATIONS[name](shape, patient.stream(LESION, index))
    return shape


def add_findings(chest: Chest, patient: Patient, findings: Collection[str]) -> None:
    """Draw the ``findings`` into ``chest`` in place."""
    for index, name in enumerate(FINDINGS):
        if name in findings and name in _LESIONS:
            _LESIONS[name](chest, patient.stream(LESION, index))


def _either_side(rng: Random) -> int:
    """Return -1 for the left of the image or 1 for the right."""
    return 1 if rng.random() < 0.5 else -1


def _sides(rng: Random, both: float) -> tuple[int, ...]:
    """Return one side or, with probability ``both``, the two."""
    return (-1, 1) if rng.random() < both else (_either_side(rng),)


def _mask(chest: Chest, side: int) -> Plane:
    """Return 1 on the given side and 0 on the other, with a soft transition near the midline."""
    return smoothstep(chest.frame.x * np.float32(side) - np.float32(0.03), 0.08)


def _fill(chest: Chest, part: Plane) -> None:
    """Displace ``part`` (0 to 1) of the air; vessels fade where tissue replaces it."""
    chest.air *= 1 - part
    chest.vessels *= 1 - part


def _place(chest: Chest, rng: Random, high: float, low: float) -> tuple[float, float]:
    """Return a random place in a lung, its height between ``high`` and ``low`` (0 apex, 1 diaphragm)."""
    side, shape = _either_side(rng), chest.shape
    y = shape.apex + rng.uniform(high, low) * (shape.dome[side > 0] - 0.02 - shape.apex)
    return side * rng.uniform(0.55, 0.85) * float(shape.half_width(np.array(y))), y


def _cloud(chest: Chest, rng: Random, centre: tuple[float, float], radii: tuple[float, float]) -> Plane:
    """Return an elliptic cloud with an uneven edge, 0 to 1."""
    level = oval(chest.frame, centre, radii, rng.uniform(-0.6, 0.6))
    grid = chest.frame.grid
    texture = np.clip(0.77 + 0.11 * mottle(rng, grid, 18) + 0.10 * mottle(rng, grid, 50), 0, 1)
    return as_plane(np.exp(1.4 * np.minimum(level - 0.7, 0)) * texture)


def _lump(chest: Chest, rng: Random, centre: tuple[float, float], radius: float) -> Plane:
    """Return the thickness (0 to 1) of a slightly lobed ball."""
    right, down = chest.frame.x - np.float32(centre[0]), chest.frame.y - np.float32(centre[1])
    angle = np.arctan2(down, right)
    lobes = 1 + 0.06 * np.sin(2 * angle + rng.uniform(0, 6)) + 0.03 * np.sin(5 * angle + rng.uniform(0, 6))
    return as_plane(np.clip(1 - (right**2 + down**2) / (radius * lobes) ** 2, 0, 1) ** 0.7)


def _lose_volume(shape: Shape, rng: Random) -> Shape:
    """Raise one dome, as in atelectasis."""
    side, rise = _either_side(rng), rng.uniform(0.035, 0.055)
    left, right = shape.dome
    return replace(shape, dome=(left - rise, right) if side < 0 else (left, right - rise))


def _enlarge_heart(shape: Shape, rng: Random) -> Shape:
    return replace(shape, heart=rng.uniform(1.27, 1.42) * shape.heart)


def _inflate(shape: Shape, rng: Random) -> Shape:
    """Enlarge and clear the lungs, flatten the diaphragm and narrow the heart, as in emphysema."""
    low = rng.uniform(0.04, 0.06)
    dome = shape.dome[0] + low, shape.dome[1] + low
    return replace(shape, dome=dome, fall=0.35 * shape.fall, heart=0.82 * shape.heart, air=1.13, vessels=0.45)


def _atelectasis(chest: Chest, rng: Random) -> None:
    """Draw plates of airless lung above the raised dome."""
    side, tilt, canvas = _either_side(rng), rng.normal(0, 0.015), Canvas(chest.frame)
    dome = chest.shape.dome[side > 0]
    along = np.linspace(-1, 1, 9)
    for _ in range(rng.integers(2, 4)):
        x, y = rng.uniform(0.17, 0.25), dome - rng.uniform(0.03, 0.15)
        bend = y + (tilt + rng.normal(0, 0.006)) * along
        path = np.stack([side * (x + rng.uniform(0.06, 0.09) * along), bend], axis=1)
        canvas.ribbon(path, rng.uniform(0.004, 0.007) * (1.1 - along**2), 0.9)
    chest.density += 5.5 * canvas.plane(0.0018) * chest.lung
    _fill(chest, 0.4 * _mask(chest, side) * np.exp(-np.clip(dome - chest.frame.y, 0, None) / 0.06))


def _effusion(chest: Chest, rng: Random) -> None:
    """Fill the costophrenic angle with fluid whose surface rises at the wall (meniscus)."""
    for side in _sides(rng, both=0.3):
        deep = rng.uniform(0.0, 0.14)
        surface = chest.shape.dome[side > 0] + 0.03 - deep - (0.05 + 0.5 * deep) * chest.reach**6
        fluid = _mask(chest, side) * smoothstep(chest.frame.y - surface, 0.03) * smoothstep(1 - chest.reach, 0.02)
        _fill(chest, fluid)
        chest.density += 0.6 * fluid


def _infiltration(chest: Chest, rng: Random) -> None:
    """Draw one or two wide, faint clouds."""
    for _ in range(rng.integers(1, 3)):
        radii = rng.uniform(0.08, 0.12), rng.uniform(0.09, 0.14)
        _fill(chest, 0.5 * _cloud(chest, rng, _place(chest, rng, 0.35, 0.85), radii))


def _mass(chest: Chest, rng: Random) -> None:
    """Draw one lump of 3.5 to 5.5 cm in a lung."""
    lump = _lump(chest, rng, _place(chest, rng, 0.2, 0.8), rng.uniform(0.045, 0.072))
    _fill(chest, 0.5 * lump)
    chest.density += 1.5 * lump * chest.lung


def _nodule(chest: Chest, rng: Random) -> None:
    """Draw one to three lumps of 1.1 to 1.7 cm in the lungs."""
    for _ in range(rng.integers(1, 4)):
        lump = _lump(chest, rng, _place(chest, rng, 0.15, 0.85), rng.uniform(0.015, 0.023))
        chest.density += 6.0 * lump * chest.lung


def _pneumonia(chest: Chest, rng: Random) -> None:
    """Scatter small clouds over one part of a lung."""
    x, y = _place(chest, rng, 0.45, 0.85)
    _fill(chest, 0.25 * _cloud(chest, rng, (x, y), (0.08, 0.1)))
    for _ in range(rng.integers(6, 10)):
        centre = rng.normal(x, 0.045), rng.normal(y, 0.06)
        radii = rng.uniform(0.018, 0.036), rng.uniform(0.018, 0.036)
        _fill(chest, 0.3 * _cloud(chest, rng, centre, radii))


def _consolidation(chest: Chest, rng: Random) -> None:
    """Fill a lobe up to its fissure, except for the air in its bronchi."""
    side, upper = _either_side(rng), rng.random() < 0.5
    tilt = rng.uniform(-0.1, 0.25)
    fissure = as_plane((0.45 if upper else 0.6) + rng.normal(0, 0.02) + tilt * (np.abs(chest.frame.x) - 0.2))
    lobe = smoothstep((fissure - chest.frame.y) * (1 if upper else -1), 0.02) * _mask(chest, side)
    _fill(chest, lobe * (0.76 + 0.05 * mottle(rng, chest.frame.grid, 12)))
    bronchi = Canvas(chest.frame)
    length = np.linspace(0.02, 0.2, 6)[:, None]  # (6, 1)
    for angle in rng.uniform(-1.3, -0.3, 5) if upper else rng.uniform(0.4, 1.3, 5):
        bronchi.stroke((side * 0.09, 0.5) + length * (side * np.cos(angle), np.sin(angle)), 0.006, 1.0)
    chest.density -= 1.6 * bronchi.plane(0.002) * lobe * chest.lung


def _pneumothorax(chest: Chest, rng: Random) -> None:
    """Collapse a lung: a thin pleural line with only air between it and the wall."""
    side, gap = _either_side(rng), rng.uniform(0.17, 0.36)
    rise = np.clip((0.75 - chest.frame.y) / 0.6, 0, 1)
    beyond = (chest.reach - (1 - gap * (0.35 + rise))) * chest.shape.wall
    mask = _mask(chest, side)
    free = smoothstep(beyond, 0.004) * mask
    chest.vessels *= 1 - free
    chest.air *= 1 + 0.16 * free - 0.16 * (mask - free)
    chest.density += 2.2 * np.exp(-((beyond / 0.0028) ** 2)) * mask * chest.lung


def _edema(chest: Chest, rng: Random) -> None:
    """Draw a cloud at both hila (bat's wings) and enlarge the vessels."""
    chest.vessels *= 1.3
    for side in (-1, 1):
        _fill(chest, 0.62 * _cloud(chest, rng, (side * 0.15, 0.5), (0.11, 0.19)))


def _fibrosis(chest: Chest, rng: Random) -> None:
    """Draw a net of fine rings over the outer lower lungs."""
    net, shape = Canvas(chest.frame), chest.shape
    for _ in range(420):
        side = _either_side(rng)
        y = shape.dome[side > 0] + 0.08 - rng.exponential(0.1)
        x = side * float(shape.half_width(np.array(y))) * (1 - 0.75 * rng.random() ** 1.6)
        ring = ellipse(x, y, rng.uniform(0.004, 0.01), rng.uniform(0.004, 0.01), 7)
        net.stroke(ring + rng.normal(0, 0.0015, ring.shape), 0.0022, 0.9)
    _fill(chest, 0.22 * np.exp(-np.clip(0.8 - chest.frame.y, 0, None) / 0.12))
    chest.density += 2.6 * net.plane(0.0008) * chest.lung


def _pleural_thickening(chest: Chest, rng: Random) -> None:
    """Draw an uneven band along the lateral chest wall that blunts the costophrenic angle."""
    for side in _sides(rng, both=0.25):
        thick = rng.uniform(0.028, 0.044) * (1 + 0.25 * mottle(rng, chest.frame.grid, 9))
        thick = thick * smoothstep(chest.frame.y - rng.uniform(0.28, 0.42), 0.15)
        inward = (1 - chest.reach) * chest.shape.half_width(chest.frame.y)
        band = smoothstep(thick - inward, 0.012) * _mask(chest, side) * smoothstep(1 - chest.reach, 0.02)
        _fill(chest, 0.75 * band)
        chest.density += 0.8 * band


def _hernia(chest: Chest, rng: Random) -> None:
    """Draw a part of the stomach behind the heart: a round wall, gas above a fluid level."""
    x, radius = rng.uniform(-0.02, 0.07), rng.uniform(0.062, 0.085)
    y = 0.5 * sum(chest.shape.dome) - 0.07
    level = oval(chest.frame, (x, y), (1.15 * radius, radius))
    inside, gas = smoothstep(level, 0.12), smoothstep(np.float32(y + 0.01) - chest.frame.y, 0.008)
    _fill(chest, inside)
    chest.density += 2.5 * np.exp(-((level / 0.13) ** 2)) + inside * (1.5 - 9.5 * gas)


_DEFORMATIONS = {"Atelectasis": _lose_volume, "Cardiomegaly": _enlarge_heart, "Emphysema": _inflate}
_LESIONS = {
    "Atelectasis": _atelectasis,
    "Effusion": _effusion,
    "Infiltration": _infiltration,
    "Mass": _mass,
    "Nodule": _nodule,
    "Pneumonia": _pneumonia,
    "Pneumothorax": _pneumothorax,
    "Consolidation": _consolidation,
    "Edema": _edema,
    "Fibrosis": _fibrosis,
    "Pleural_Thickening": _pleural_thickening,
    "Hernia": _hernia,
}
