"""The soft tissues: how thick the patient is behind each pixel, and how much of it is air."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cxrfeat.phantom.frame import Frame, Plane, as_plane, mottle, profile, step
from cxrfeat.phantom.patients import BODY, POSE, Patient, Study


@dataclass(frozen=True)
class Shape:
    """Measures of one patient in one study, in fractions of the picture's side unless said."""

    wall: float  # half the inner width of the thorax
    apex: float  # y of the lung tips
    dome: tuple[float, float]  # y of the diaphragm's domes, picture left and right
    fall: float  # how far a dome falls to the costophrenic angle
    heart: float  # relative size
    heart_turn: float  # radians of the long axis
    knob: float  # radius of the aortic knob
    breast: float  # relative thickness of the breasts, 0 for none
    girth: float  # half the width of the trunk
    bulk: float  # relative thickness of all soft tissue
    bone: float  # relative density of bone
    arms: float  # slope of the arms, fractions outwards a fraction down
    pitch: float  # distance of the ribs
    shoulder: float  # y of the shoulders' tops
    scapula: float  # how far the scapulae lie over the lungs
    air: float = 1.0  # relative transparency of the lungs
    vessels: float = 1.0  # relative strength of the vessels

    def half_width(self, y: npt.NDArray[np.floating]) -> Plane:
        """Return the inner half width of the thorax at each ``y``, float32."""
        depth = np.clip((0.86 - y) / (0.86 - self.apex), 0, 1)
        return as_plane(self.wall * (1 - 0.12 * depth) * (1 - depth**2.7) ** 0.4)

    def diaphragm(self, x: npt.NDArray[np.floating]) -> Plane:
        """Return the y of the diaphragm at each ``x``, float32."""
        out = np.abs(x)
        top = np.where(x < 0, np.float32(self.dome[0]), np.float32(self.dome[1]))
        middle = 0.5 * self.wall
        lateral = np.clip((out - middle) / (self.wall - middle), 0, 1.2)
        medial = np.clip(1 - out / middle, 0, 1)
        return as_plane(top + self.fall * lateral**2.6 + 0.035 * medial**2)


def make_shape(patient: Patient, study: Study) -> Shape:
    """Return the patient's build; the study adds its view, breath and age."""
    rng = patient.stream(BODY)
    breath = patient.stream(POSE, study.follow_up, BODY).normal(0, 0.012)
    female, frontal = patient.sex == "F", study.view == "AP"
    old = min(max((study.age - 20) / 60, 0.0), 1.0)
    dome = rng.normal(0.78, 0.022) + breath - 0.03 * frontal
    wall = rng.normal(0.335, 0.014) - 0.01 * female
    shape = Shape(
        wall=wall,
        apex=rng.normal(0.125, 0.012),
        dome=(dome, dome + rng.normal(0.025, 0.012)),
        fall=rng.normal(0.105, 0.01),
        heart=rng.normal(0.98, 0.05) + 0.04 * old,
        heart_turn=rng.normal(0.72, 0.06),
        knob=rng.normal(0.032, 0.003) + 0.016 * old,
        breast=rng.uniform(0.5, 1.3) if female else 0.0,
        girth=wall + rng.uniform(0.07, 0.14),
        bulk=rng.normal(1.0, 0.07),
        bone=rng.normal(1.1, 0.12) - 0.25 * old,
        arms=0.12 if frontal else rng.uniform(0.25, 0.45),
        pitch=rng.normal(0.0735, 0.003),
        shoulder=rng.normal(0.10, 0.02),
        scapula=rng.uniform(0.0, 0.02),
    )
    if frontal:  # the heart lies far from the detector, the arms hang, the beam is softer
        return replace(shape, heart=1.13 * shape.heart, scapula=shape.scapula + 0.05, bulk=0.92 * shape.bulk)
    return shape


@dataclass
class Chest:
    """The planes of one study, float32 (grid, grid), which the findings alter in place.

    Attributes:
        frame: the pixels' patient coordinates.
        shape: the patient's measures.
        reach: 0 at the midline, 1 at the inner wall of the thorax.
        body: thickness of the body, cm.
        air: thickness of the air in the lungs, cm.
        lung: 0..1, where lung is to be seen.
        density: what else attenuates, cm of water.
        vessels: strength of the lung vessels, 0..1 and more.
    """

    frame: Frame
    shape: Shape
    reach: Plane
    body: Plane
    air: Plane
    lung: Plane
    density: Plane
    vessels: Plane


def _trunk(frame: Frame, shape: Shape) -> Plane:
    out, y = np.abs(frame.x), frame.y
    side = profile(y, [(0.0, 0.66), (0.42, 0.62), (0.6, shape.girth + 0.03), (1.0, shape.girth + 0.01)])
    thick = profile(y, [(0.0, 9.0), (0.15, 9.5), (0.3, 14.5), (0.5, 18.0), (0.7, 19.5), (1.0, 20.5)])
    drop = [(0.0, -0.3), (0.15, -0.2), (0.2, -0.09), (0.3, -0.01), (0.42, 0.04), (0.5, 0.12), (0.6, 0.3)]
    under = y - shape.shoulder - profile(out, drop)
    trunk = thick * (1 - np.exp(-np.clip(under, 0, None) * 14)) * np.clip(1 - (out / side) ** 2, 0, 1) ** 0.45
    neck = 12 * np.clip(1 - (out / 0.2) ** 2, 0, 1) ** 0.8 * step(0.25 - y, 0.25)
    reach = np.abs(out - 0.45 + shape.scapula - shape.arms * (y - 0.2)) / 0.09
    arm = 8 * np.sqrt(np.clip(1 - reach**2, 0, 1)) * step(y - 0.22, 0.14)
    return as_plane(shape.bulk * np.maximum(np.maximum(trunk, neck), arm))


def _breasts(frame: Frame, shape: Shape) -> Plane:
    away = ((np.abs(frame.x) - 0.215) / 0.185) ** 2 + ((frame.y - 0.73) / 0.16) ** 2
    return as_plane(3.2 * shape.breast * np.clip(1 - away, 0, 1) ** 0.6 * step(frame.y - 0.5, 0.5))


def oval(frame: Frame, centre: tuple[float, float], radii: tuple[float, float], turn: float = 0.0) -> Plane:
    """Return how deep each pixel lies in a turned ellipse: 1 in the middle, 0 on its edge, then negative."""
    right, down = frame.x - np.float32(centre[0]), frame.y - np.float32(centre[1])
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    across, along = (cos * right + sin * down) / radii[0], (cos * down - sin * right) / radii[1]
    return as_plane(1 - across**2 - along**2)


def _mediastinum(frame: Frame, shape: Shape) -> Plane:
    """Return how much of the air the midline organs displace, 0..1."""
    size = shape.heart
    low = 0.5 * (shape.dome[0] + shape.dome[1]) - 0.105
    ovals = (
        oval(frame, (0.02 + 0.035 * size, low), (0.185 * size, 0.118 * size), shape.heart_turn),
        oval(frame, (-0.02, low - 0.05), (0.07 * size, 0.17)),  # right atrium
        oval(frame, (0.045, low - 0.13), (0.06, 0.14), -0.25),  # pulmonary trunk
        oval(frame, (0.05, 0.405), (shape.knob, 1.3 * shape.knob)),  # aortic knob
        oval(frame, (-0.002, 0.42), (0.067, 0.4)),  # great vessels
    )
    merged = np.log(sum(np.exp(5 * np.maximum(oval, -3)) for oval in ovals)) / np.float32(5)
    heart = step(merged - 0.1, 0.36) * (0.42 + 0.36 * np.sqrt(np.clip(merged, 0, 1)))
    side = [(0.0, 0.13), (0.15, 0.09), (0.21, 0.05), (0.35, 0.036), (0.5, 0.046), (0.8, 0.045), (1.0, 0.06)]
    column = step(profile(frame.y, side) - np.abs(frame.x), 0.06)
    return as_plane(1 - (1 - heart) * (1 - 0.9 * column))


def build_chest(patient: Patient, frame: Frame, shape: Shape) -> Chest:
    """Return the soft tissues of the patient, still without bones, vessels and findings."""
    rng = patient.stream(BODY, 1)
    reach = np.abs(frame.x) / (shape.half_width(frame.y) + np.float32(1e-4))
    inside = np.sqrt(np.clip(1 - reach**3.2, 0, 1))
    above = shape.diaphragm(frame.x) - frame.y
    seen = step(above, 0.005) * step(1 - reach, 0.02)
    behind = 0.25 * np.exp(np.clip(above, None, 0) * 20) * step(1 - reach, 0.02)  # lung dips behind the dome
    hidden = _mediastinum(frame, shape)
    body = _trunk(frame, shape)
    height = profile(frame.y, [(0.1, 0.5), (0.25, 0.7), (0.45, 0.74), (0.7, 0.72), (0.9, 0.7)])
    air = shape.air * body * height * inside * (1 - hidden) * np.maximum(seen, behind)
    body += _breasts(frame, shape) + 0.4 * mottle(rng, frame.grid, 6) + 0.2 * mottle(rng, frame.grid, 20)
    bubble = oval(frame, (0.5 * shape.wall, shape.dome[1] + 0.065), (0.05, 0.028), 0.2)
    density = -rng.uniform(2.0, 8.0) * step(bubble - 0.3 + 0.5 * mottle(rng, frame.grid, 16), 1.2)
    return Chest(frame, shape, reach, body, air, seen * (1 - hidden), density, np.zeros_like(air))
