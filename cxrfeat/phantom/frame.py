"""Where things are on the picture: patient coordinates, line art and mottle.

Patient coordinates are fractions of the picture's side: x = 0 is the midline and
grows to the right of the picture (the patient's left), y grows downwards from 0
(neck) to 1 (upper abdomen). A picture of side 1 stands for about 38 cm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

Plane = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]

_RIM_WIDTH = 0.003


@dataclass(frozen=True)
class Pose:
    """How the patient stands before the detector: radians, then fractions of the side."""

    angle: float = 0.0
    scale: float = 1.0
    dx: float = 0.0
    dy: float = 0.0


class Frame:
    """A square grid of pixels that knows its patient coordinates.

    Attributes:
        grid: pixels a side.
        x: patient x of each pixel, float32 (grid, grid).
        y: patient y of each pixel, float32 (grid, grid).
    """

    def __init__(self, grid: int, pose: Pose) -> None:
        """Lay out ``grid`` x ``grid`` pixels for a patient in this ``pose``."""
        self.grid = grid
        cos, sin = np.cos(pose.angle), np.sin(pose.angle)
        self._turn = pose.scale * np.array([[cos, sin], [-sin, cos]])
        self._centre = np.array([0.5 + pose.dx, 0.5 + pose.dy])
        unit = (np.arange(grid) + 0.5) / grid
        right, down = unit[None, :] - self._centre[0], unit[:, None] - self._centre[1]
        back = np.linalg.inv(self._turn)
        self.x: Plane = (back[0, 0] * right + back[1, 0] * down).astype(np.float32)
        self.y: Plane = (back[0, 1] * right + back[1, 1] * down + 0.5).astype(np.float32)

    def to_picture(self, points: Points) -> Points:
        """Return patient ``points`` (n, 2) as fractions of the picture's sides (n, 2)."""
        return np.asarray((points - (0.0, 0.5)) @ self._turn + self._centre)


class Ink:
    """Line art in patient coordinates, drawn at twice the grid and averaged down."""

    def __init__(self, frame: Frame) -> None:
        """Start an empty sheet over ``frame``."""
        self._frame = frame
        self._side = 2 * frame.grid
        self._sheet = Image.new("L", (self._side, self._side))
        self._draw = ImageDraw.Draw(self._sheet)

    def _place(self, points: Points) -> list[float]:
        """Return x, y, x, y, ... in the sheet's pixels."""
        flat: list[float] = (self._frame.to_picture(points) * self._side).ravel().tolist()
        return flat

    def _line(self, placed: list[float], width: float, value: float) -> None:
        pixels = width * self._side
        ink = round(255 * min(1.0, value * min(1.0, pixels)))
        self._draw.line(placed, fill=ink, width=max(1, round(pixels)))

    def stroke(self, points: Points, width: float, value: float) -> None:
        """Draw a line through ``points`` (n, 2); ``value`` 0..1; thinner than a pixel means fainter."""
        self._line(self._place(points), width, value)

    def vessel(self, points: Points, width: float) -> None:
        """Draw a line through ``points`` (n, 2) that tapers and fades from ``width``."""
        placed, pieces = self._place(points), max(1, len(points) // 4)
        for first in range(pieces):
            thin = width * (1 - 0.8 * first / pieces)
            self._line(placed[8 * first : 8 * first + 10], thin, min(1.0, 0.3 + 85 * thin))

    def area(self, outline: Points, value: float, rim: float = 0.0) -> None:
        """Fill an ``outline`` (n, 2) with ``value`` and edge it with ``rim``, both 0..1."""
        self._draw.polygon(self._place(outline), fill=round(255 * value))
        if rim:
            self.stroke(np.concatenate([outline, outline[:1]]), _RIM_WIDTH, rim)

    def ribbon(self, middle: Points, half_width: npt.ArrayLike, value: float, rim: float = 0.0) -> None:
        """Draw a band about the line ``middle`` (n, 2), ``half_width`` a scalar or (n,)."""
        along = np.gradient(middle, axis=0)
        along /= np.hypot(along[:, 0], along[:, 1])[:, None] + 1e-9
        out = np.stack([-along[:, 1], along[:, 0]], axis=1)
        out *= np.broadcast_to(half_width, len(middle))[:, None]
        self.area(np.concatenate([middle + out, (middle - out)[::-1]]), value)
        if rim:
            self.stroke(middle + out, 0.003, rim)
            self.stroke(middle - out, 0.003, rim)

    def plane(self, blur: float = 0.0) -> Plane:
        """Return the sheet as float32 (grid, grid) in 0..1, blurred by ``blur`` (fraction of the side)."""
        sheet = self._sheet.reduce(2)
        if blur:
            sheet = sheet.filter(ImageFilter.GaussianBlur(blur * self._frame.grid))
        return as_plane(np.asarray(sheet)) / np.float32(255)


def as_plane(values: npt.ArrayLike) -> Plane:
    """Return ``values`` as float32, so that no stray double slows down what follows."""
    return np.asarray(values, dtype=np.float32)


def ellipse(x: float, y: float, rx: float, ry: float, points: int = 24) -> Points:
    """Return the outline (points, 2) of an upright ellipse."""
    turn = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.stack([x + rx * np.cos(turn), y + ry * np.sin(turn)], axis=1)


def profile(at: npt.ArrayLike, knots: Sequence[tuple[float, float]]) -> Plane:
    """Return a smooth curve through about the ``knots`` (at, value), float32, shaped as ``at``."""
    low, high, cells = -0.3, 1.3, 1600
    where, values = np.array(knots).T
    table = np.interp(np.linspace(low, high, cells), where, values)
    window = np.hanning(61)
    table = as_plane(np.convolve(np.pad(table, 30, mode="edge"), window / window.sum(), mode="valid"))
    position = np.clip((as_plane(at) - low) * ((cells - 1) / (high - low)), 0, cells - 1.01)
    cell = position.astype(np.int32)
    slope = np.diff(table, append=table[-1])
    return as_plane(table[cell] + slope[cell] * (position - cell))


def mottle(rng: np.random.Generator, grid: int, cells: int) -> Plane:
    """Return smooth noise of unit amplitude and about ``cells`` bumps a side, float32 (grid, grid)."""
    cells = min(cells, grid)
    noise = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32))
    return np.asarray(noise.resize((grid, grid), Image.Resampling.BICUBIC))


def step(value: Plane, soft: float) -> Plane:
    """Return a 0..1 ramp that rises where ``value`` passes 0, over a width of ``soft``."""
    ramp = np.clip(value * np.float32(1 / soft) + np.float32(0.5), 0, 1)
    return as_plane(ramp * ramp * (3 - 2 * ramp))
