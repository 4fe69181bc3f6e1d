"""Soft tissue of the chest: body thickness and lung air behind each pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cxrfeat.phantom.frame import Frame, Plane, as_plane, mottle, oval, profile, smoothstep
from cxrfeat.phantom.patients import BODY, POSE, Patient, Study


@dataclass(frozen=True)
class Shape:
    """Dimensions of one patient in one study, as fractions of the image side unless noted."""

    wall: float  # half the inner width of the thorax
    apex: float  # y of the lung apices
    dome: tuple[float, float]  # y of the diaphragm domes, left and right in the image
    fall: float  # depth of the costophrenic angle below the dome
    heart: float  # relative size
    heart_angle: float  # radians of the long axis
    knob: float  # radius of the aortic knob
    breast: float  # relative thickness of the breasts, 0 for none
    girth: float  # half the width of the trunk
    bulk: float  # relative thickness of all soft tissue
    bone: float  # relative density of bone
    arms: float  # slope of the arms, x per y
    pitch: float  # distance between ribs
    shoulder: float  # y of the top of the shoulders
    scapula: float  # overlap of the scapulae with the lungs
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
    """Return the dimensions of a patient for the view, breath and age of a study."""
    rng = patient.stream(BODY)
    breath = patient.stream(POSE, study.follow_up, BODY).normal(0, 0.012)
    # In an AP view, the heart is far from the detector, the arms hang down and the beam is softer.
    female, ap = patient.sex == "F", study.view == "AP"
    old = min(max((study.age - 20) / 60, 0.0), 1.0)
    dome = rng.normal(0.78, 0.022) + breath - 0.03 * ap
    wall = rng.normal(0.335, 0.014) - 0.01 * female
    return Shape(
        wall=wall,
        apex=rng.normal(0.125, 0.012),
        dome=(dome, dome + rng.normal(0.025, 0.012)),
        fall=rng.normal(0.105, 0.01),
        heart=(rng.normal(0.98, 0.05) + 0.04 * old) * (1.13 if ap else 1.0),
        heart_angle=rng.normal(0.72, 0.06),
        knob=rng.normal(0.032, 0.003) + 0.016 * old,
        breast=rng.uniform(0.5, 1.3) if female else 0.0,
        girth=wall + rng.uniform(0.07, 0.14),
        bulk=rng.normal(1.0, 0.07) * (0.92 if ap else 1.0),
        bone=rng.normal(1.1, 0.12) - 0.25 * old,
        arms=0.12 if ap else rng.uniform(0.25, 0.45),
        pitch=rng.normal(0.0735, 0.003),
        shoulder=rng.normal(0.10, 0.02),
        scapula=rng.uniform(0.0, 0.02) + 0.05 * ap,
    )


@dataclass
class Chest:
    """Planes of one study, float32 (grid, grid), that the drawing steps modify in place."""

    frame: Frame
    shape: Shape
    reach: Plane  # distance from the midline: 0 there, 1 at the inner wall of the thorax
    body: Plane  # thickness of the body, cm
    air: Plane  # thickness of the air in the lungs, cm
    lung: Plane  # visibility of the lungs, 0 to 1
    density: Plane  # additional attenuation, cm of water
    vessels: Plane  # strength of the lung vessels, 0 to above 1


def _trunk(frame: Frame, shape: Shape) -> Plane:
    out, y = np.abs(frame.x), frame.y
    side = profile(y, [(0.0, 0.66), (0.42, 0.62), (0.6, shape.girth + 0.03), (1.0, shape.girth + 0.01)])
    thick = profile(y, [(0.0, 9.0), (0.15, 9.5), (0.3, 14.5), (0.5, 18.0), (0.7, 19.5), (1.0, 20.5)])
    drop = [(0.0, -0.3), (0.15, -0.2), (0.2, -0.09), (0.3, -0.01), (0.42, 0.04), (0.5, 0.12), (0.6, 0.3)]
    under = y - shape.shoulder - profile(out, drop)
    trunk = thick * (1 - np.exp(-np.clip(under, 0, None) * 14)) * np.clip(1 - (out / side) ** 2, 0, 1) ** 0.45
    neck = 12 * np.clip(1 - (out / 0.2) ** 2, 0, 1) ** 0.8 * smoothstep(0.25 - y, 0.25)
    reach = np.abs(out - 0.45 + shape.scapula - shape.arms * (y - 0.2)) / 0.09
    arm = 8 * np.sqrt(np.clip(1 - reach**2, 0, 1)) * smoothstep(y - 0.22, 0.14)
    return as_plane(shape.bulk * np.maximum(np.maximum(trunk, neck), arm))


def _mediastinum(frame: Frame, shape: Shape) -> Plane:
    """Return the share of the air that the organs of the mediastinum displace, 0 to 1."""
    size = shape.heart
    low = 0.5 * (shape.dome[0] + shape.dome[1]) - 0.105
    ovals = (
        oval(frame, (0.02 + 0.035 * size, low), (0.185 * size, 0.118 * size), shape.heart_angle),
        oval(frame, (-0.02, low - 0.05), (0.07 * size, 0.17)),  # right atrium
        oval(frame, (0.045, low - 0.13), (0.06, 0.14), -0.25),  # pulmonary trunk
        oval(frame, (0.05, 0.405), (shape.knob, 1.3 * shape.knob)),  # aortic knob
        oval(frame, (-0.002, 0.42), (0.067, 0.4)),  # great vessels
    )
    # Log-sum-exp: a smooth maximum, so that the organs merge without creases.
    merged = np.log(sum(np.exp(5 * np.maximum(oval, -3)) for oval in ovals)) / np.float32(5)
    heart = smoothstep(merged - 0.1, 0.36) * (0.42 + 0.36 * np.sqrt(np.clip(merged, 0, 1)))
    side = [(0.0, 0.13), (0.15, 0.09), (0.21, 0.05), (0.35, 0.036), (0.5, 0.046), (0.8, 0.045), (1.0, 0.06)]
    column = smoothstep(profile(frame.y, side) - np.abs(frame.x), 0.06)
    return as_plane(1 - (1 - heart) * (1 - 0.9 * column))


def build_chest(patient: Patient, frame: Frame, shape: Shape) -> Chest:
    """Return the soft tissue of a patient, without bones, vessels and findings."""
    rng = patient.stream(BODY, 1)
    reach = np.abs(frame.x) / (shape.half_width(frame.y) + np.float32(1e-4))
    inside = np.sqrt(np.clip(1 - reach**3.2, 0, 1))
    above = shape.diaphragm(frame.x) - frame.y
    visible = smoothstep(above, 0.005) * smoothstep(1 - reach, 0.02)
    behind = 0.25 * np.exp(np.clip(above, None, 0) * 20) * smoothstep(1 - reach, 0.02)  # lung behind the dome
    hidden = _mediastinum(frame, shape)
    body = _trunk(frame, shape)
    height = profile(frame.y, [(0.1, 0.5), (0.25, 0.7), (0.45, 0.74), (0.7, 0.72), (0.9, 0.7)])
    air = shape.air * body * height * inside * (1 - hidden) * np.maximum(visible, behind)
    away = ((np.abs(frame.x) - 0.215) / 0.185) ** 2 + ((frame.y - 0.73) / 0.16) ** 2
    breasts = 3.2 * shape.breast * np.clip(1 - away, 0, 1) ** 0.6 * smoothstep(frame.y - 0.5, 0.5)
    body += breasts + 0.4 * mottle(rng, frame.grid, 6) + 0.2 * mottle(rng, frame.grid, 20)
    bubble = oval(frame, (0.5 * shape.wall, shape.dome[1] + 0.065), (0.05, 0.028), 0.2)  # gas in the stomach
    density = -rng.uniform(2.0, 8.0) * smoothstep(bubble - 0.3 + 0.5 * mottle(rng, frame.grid, 16), 1.2)
    return Chest(frame, shape, reach, body, air, visible * (1 - hidden), density, np.zeros_like(air))
