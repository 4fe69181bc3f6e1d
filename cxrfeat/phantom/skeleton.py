"""Line art of the chest: ribs, shoulder girdle, spine, airway and lung vessels."""

from __future__ import annotations

import math

import numpy as np

from cxrfeat.phantom.anatomy import Chest
from cxrfeat.phantom.frame import Canvas, Plane, Points, Random, as_plane, ellipse, smoothstep
from cxrfeat.phantom.patients import VESSELS, Patient

_SIDES = (-1.0, 1.0)
_RIBS = 10

# Heading (radians below the horizontal), length and width of the vessels that leave a hilum.
_TRUNKS = (
    (-1.3, 0.3, 0.0075), (-0.95, 0.28, 0.006), (-0.5, 0.28, 0.005), (-0.1, 0.26, 0.0045), (0.25, 0.27, 0.005),
    (0.55, 0.3, 0.006), (0.85, 0.34, 0.008), (1.1, 0.38, 0.010), (1.4, 0.33, 0.006),
)  # fmt: skip


def _curve(*points: tuple[float, float], side: float = 1.0, number: int = 24) -> Points:
    """Return a smooth line (number, 2) that approximates the ``points``, mirrored for side -1."""
    at = np.linspace(0, len(points) - 1, number)
    window = np.hanning(9)[1:-1]
    smooth = []
    for knots in np.array(points).T:
        padded = np.pad(np.interp(at, np.arange(len(points)), knots), 3, mode="reflect", reflect_type="odd")
        smooth.append(np.convolve(padded, window / window.sum(), mode="valid"))
    return np.stack(smooth, axis=1) * (side, 1.0)


def _ribs(chest: Chest, rng: Random) -> Plane:
    """Return the rib cage: arcs from the spine down to the wall, then fainter arcs to the front."""
    shape = chest.shape
    back, front = Canvas(chest.frame), Canvas(chest.frame)
    along = np.linspace(0.0, 1.0, 28)
    for side in _SIDES:
        for rib in range(_RIBS):
            start = shape.apex + 0.045 + rib * shape.pitch + rng.normal(0, 0.003)
            y = start - (0.012 + 0.0018 * rib) * np.sin(np.pi * along)
            y += (0.045 + 0.014 * rib) * (1 - np.sqrt(1 - (0.985 * along) ** 2))
            x = 0.035 + (shape.half_width(y) + 0.009 - 0.035) * along
            half = (0.0125 + 0.0008 * min(rib, 6)) * (1 - 0.65 * along**8)
            back.ribbon(np.stack([side * x, y], axis=1), half, 0.5, 1.0)
            y = y[-1] + 0.006 + (0.05 + 0.012 * rib) * along**0.85
            x = (shape.half_width(y) + 0.006) * (1 - 0.66 * along**1.1)
            if rib < 7:
                front.ribbon(np.stack([side * x, y], axis=1), 0.0155, 0.62, 0.7)
    fade = smoothstep(chest.reach - 0.52, 0.4)  # near the sternum, the ribs turn into cartilage
    return 2.3 * back.plane(0.0006) + 1.15 * fade * front.plane(0.0022)


def _shoulders(chest: Chest) -> Plane:
    """Return clavicles, scapulae and upper arms."""
    top, arms = chest.shape.shoulder, chest.shape.arms
    clavicles, others = Canvas(chest.frame), Canvas(chest.frame)
    half = np.interp(np.linspace(0, 1, 24), [0, 0.12, 0.5, 1], [0.02, 0.015, 0.0115, 0.015])
    for side in _SIDES:
        collar = ((0.03, 0.135), (0.1, 0.115), (0.2, 0.075), (0.3, 0.04), (0.4, 0.025))
        clavicles.ribbon(_curve(*((x, y + top) for x, y in collar), side=side), half, 0.5, 0.95)
        x, y = 0.39 - chest.shape.scapula, top + 0.15
        others.area(_curve((x, y), (x - 0.02, y + 0.16), (x - 0.04, y + 0.31), (x - 0.065, y + 0.16),
                           (x - 0.075, y), (x - 0.02, y - 0.06), side=side, number=40), 0.2, 0.55)  # fmt: skip
        others.ribbon(_curve((x - 0.07, y - 0.02), (x, y - 0.09), (x + 0.05, y - 0.12), side=side), 0.012, 0.45, 0.7)
        others.area(ellipse(side * (x + 0.055), y - 0.02, 0.05, 0.052), 0.45, 0.7)  # head of the humerus
        elbow = (x + 0.06 + 0.95 * arms, y + 0.97)
        shaft = _curve((x + 0.06, y + 0.02), (x + 0.065 + 0.2 * arms, y + 0.22), elbow, side=side)
        others.ribbon(shaft, 0.024, 0.5, 0.95)
        others.area(ellipse(side * (x - 0.045), y - 0.045, 0.018, 0.022), 0.5, 0.8)  # coracoid
    return 3.4 * clavicles.plane(0.001) + 2.7 * others.plane(0.0016)


def _spine(chest: Chest, rng: Random) -> Plane:
    """Return the vertebrae, each with end plates, transverse processes, pedicles and a spinous process."""
    canvas = Canvas(chest.frame)
    y, height = -0.03, 0.038
    while y < 1.05:
        half = 0.03 + 0.016 * min(max(y, 0.0), 1.0)
        box = [(-half, y), (half, y), (half * 0.93, y + height / 2), (half, y + height)]
        box += [(-half, y + height), (-half * 0.93, y + height / 2)]
        canvas.area(np.array(box), 0.55, 0.75)
        for side in _SIDES:
            tip = side * (half + rng.uniform(0.016, 0.026))
            canvas.ribbon(_curve((side * half * 0.6, y + 0.012), (tip, y + rng.normal(0.008, 0.003))), 0.006, 0.6)
            canvas.area(ellipse(side * 0.62 * half, y + 0.4 * height, 0.006, 0.009, 12), 0.8, 1.0)
        canvas.area(ellipse(rng.normal(0, 0.001), y + 0.85 * height, 0.005, 0.012, 12), 0.85, 1.0)
        y += height + 0.009
        height *= 1.022
    return 2.5 * canvas.plane(0.0028)


def _airway(chest: Chest) -> Plane:
    """Return the trachea and the main bronchi, 0 to 1."""
    canvas = Canvas(chest.frame)
    canvas.ribbon(_curve((0.0, 0.0), (0.0, 0.2), (-0.006, 0.42)), 0.017, 1.0)
    for side, tip in ((-1.0, 0.49), (1.0, 0.48)):
        canvas.ribbon(_curve((-0.005 * side, 0.42), (0.03, 0.455), (0.06, tip), side=side), 0.009, 0.5)
    return canvas.plane(0.005)


def _branch(canvas: Canvas, rng: Random, start: complex, heading: float, *, length: float, width: float) -> None:
    """Draw one vessel from ``start`` (x + iy) and, down to a minimum width, its branches."""
    steps = max(4, round(length / 0.012))
    headings = heading + np.cumsum(rng.normal(rng.normal(0, 0.012), 0.13, steps))
    path = np.full(steps + 1, start)
    path[1:] += np.cumsum(np.exp(1j * headings)) * (length / steps)
    canvas.vessel(path.view(np.float64).reshape(-1, 2), width)
    if width < 0.0013:
        return
    for at in rng.integers(1, steps, size=2 + round(width * 800)).tolist():
        lean, longer, wider = rng.uniform((-0.65, 0.35, 0.35), (0.65, 0.8, 0.65)).tolist()
        turned = headings[at] + lean + math.copysign(0.35, lean)
        rest = (1 - at / steps) * length + 0.05
        _branch(canvas, rng, path[at], turned, length=longer * rest, width=wider * (1 - 0.7 * at / steps) * width)


def _vessels(patient: Patient, chest: Chest) -> Plane:
    """Return the lung vessels that fan out from the hila, 0 to above 1."""
    rng = patient.stream(VESSELS)
    fine, hilum = Canvas(chest.frame), Canvas(chest.frame)
    for side in _SIDES:
        x, y = side * 0.062, 0.50 if side < 0 else 0.475
        for angle, length, width in _TRUNKS:
            heading = (angle if side > 0 else np.pi - angle) + rng.normal(0, 0.08)
            start = complex(rng.normal(x, 0.006), rng.normal(y + 0.03 * angle, 0.006))
            _branch(fine, rng, start, heading, length=length * rng.uniform(0.85, 1.15), width=width)
        for _ in range(14):
            node = rng.normal(x + 0.032 * side, 0.014), rng.normal(y + 0.02, 0.04)
            hilum.area(ellipse(*node, rng.uniform(0.006, 0.013), rng.uniform(0.01, 0.022)), 0.8)
    return as_plane(fine.plane(0.001) + 1.3 * hilum.plane(0.006) + 0.9 * hilum.plane(0.03))


def add_skeleton(patient: Patient, chest: Chest) -> None:
    """Add bones, airway and lung vessels to a chest in place."""
    shape = chest.shape
    rng = patient.stream(VESSELS, 1)
    chest.density += shape.bone * (_ribs(chest, rng) + _shoulders(chest) + _spine(chest, rng))
    chest.density -= 3.2 * _airway(chest)
    out = np.abs(chest.frame.x) - shape.half_width(chest.frame.y)
    wall = np.exp(-(((out - 0.011) / 0.006) ** 2)) + 0.5 * np.exp(-(((out - 0.03) / 0.012) ** 2))
    chest.density += 2.2 * shape.bone * wall * smoothstep(chest.frame.y - shape.apex, 0.08)
    chest.vessels += shape.vessels * _vessels(patient, chest)
