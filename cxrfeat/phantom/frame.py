"""Patient coordinates, line drawing, shading and noise on a square grid of pixels.

Patient coordinates are fractions of the image side: x = 0 is the midline and grows to the right of the image (the
patient's left), y grows downwards from 0 (neck) to 1 (upper abdomen). A side of 1 corresponds to about 38 cm.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

Plane = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]
Random = np.random.Generator

_RIM_WIDTH = 0.003


class Frame:
    """Square grid of pixels with the patient coordinates of each.

    Attributes:
        grid: pixels per side.
        x: patient x of each pixel, float32 (grid, grid).
        y: patient y of each pixel, float32 (grid, grid).
    """

    def __init__(self, grid: int, angle: float = 0.0, scale: float = 1.0, dx: float = 0.0, dy: float = 0.0) -> None:
        """Lay out the grid for a patient turned by ``angle`` (radians), scaled and shifted by fractions of the side."""
        self.grid = grid
        cos, sin = np.cos(angle), np.sin(angle)
        self._turn = scale * np.array([[cos, sin], [-sin, cos]])  # (2, 2), patient to image
        self._centre = np.array([0.5 + dx, 0.5 + dy])
        unit = (np.arange(grid) + 0.5) / grid
        right, down = unit[None, :] - self._centre[0], unit[:, None] - self._centre[1]  # (1, grid), (grid, 1)
        back = np.linalg.inv(self._turn)
        self.x: Plane = (back[0, 0] * right + back[1, 0] * down).astype(np.float32)
        self.y: Plane = (back[0, 1] * right + back[1, 1] * down + 0.5).astype(np.float32)

    def to_pixels(self, points: Points, side: int) -> list[float]:
        """Convert patient coordinates (n, 2) to x, y, x, y, ... in pixels of an image with this ``side``."""
        flat: list[float] = (((points - (0.0, 0.5)) @ self._turn + self._centre) * side).ravel().tolist()
        return flat


class Canvas:
    """Line art in patient coordinates, drawn at twice the grid and averaged down; all gray values are 0 to 1."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._side = 2 * frame.grid
        self._sheet = Image.new("L", (self._side, self._side))
        self._draw = ImageDraw.Draw(self._sheet)

    def stroke(self, points: Points, width: float, value: float) -> None:
        """Draw a line through ``points`` (n, 2); a line thinner than one pixel is drawn fainter."""
        pixels = width * self._side
        gray = round(255 * min(1.0, value * min(1.0, pixels)))
        self._draw.line(self._frame.to_pixels(points, self._side), fill=gray, width=max(1, round(pixels)))

    def vessel(self, points: Points, width: float) -> None:
        """Draw a line through ``points`` (n, 2) that tapers and fades from ``width``."""
        pieces = max(1, len(points) // 4)
        for piece in range(pieces):
            thin = width * (1 - 0.8 * piece / pieces)
            self.stroke(points[4 * piece : 4 * piece + 5], thin, min(1.0, 0.3 + 85 * thin))

    def area(self, outline: Points, value: float, rim: float = 0.0) -> None:
        """Fill an ``outline`` (n, 2) with ``value`` and draw its edge with ``rim``."""
        self._draw.polygon(self._frame.to_pixels(outline, self._side), fill=round(255 * value))
        if rim:
            self.stroke(np.concatenate([outline, outline[:1]]), _RIM_WIDTH, rim)

    def ribbon(self, middle: Points, half_width: npt.ArrayLike, value: float, rim: float = 0.0) -> None:
        """Draw a band around the line ``middle`` (n, 2) with ``half_width`` scalar or (n,)."""
        along = np.gradient(middle, axis=0)  # (n, 2)
        along /= np.hypot(along[:, 0], along[:, 1])[:, None] + 1e-9
        offset = np.stack([-along[:, 1], along[:, 0]], axis=1)  # (n, 2), normal to the line
        offset *= np.broadcast_to(half_width, len(middle))[:, None]
        self.area(np.concatenate([middle + offset, (middle - offset)[::-1]]), value)
        if rim:
            self.stroke(middle + offset, _RIM_WIDTH, rim)
            self.stroke(middle - offset, _RIM_WIDTH, rim)

    def plane(self, blur: float = 0.0) -> Plane:
        """Return the drawing as float32 (grid, grid) in 0 to 1, blurred by ``blur`` (fraction of the side)."""
        sheet = self._sheet.reduce(2)
        if blur:
            sheet = sheet.filter(ImageFilter.GaussianBlur(blur * self._frame.grid))
        return as_plane(np.asarray(sheet)) / np.float32(255)


def as_plane(values: npt.ArrayLike) -> Plane:
    """Convert ``values`` to float32, so that a stray float64 does not slow down later steps."""
    return np.asarray(values, dtype=np.float32)


def ellipse(x: float, y: float, rx: float, ry: float, points: int = 24) -> Points:
    """Return the outline (points, 2) of an upright ellipse."""
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)


def oval(frame: Frame, centre: tuple[float, float], radii: tuple[float, float], angle: float = 0.0) -> Plane:
    """Return the depth of each pixel in a rotated ellipse: 1 at the centre, 0 on the edge, negative outside."""
    right, down = frame.x - np.float32(centre[0]), frame.y - np.float32(centre[1])
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    across, along = (cos * right + sin * down) / radii[0], (cos * down - sin * right) / radii[1]
    return as_plane(1 - across**2 - along**2)


def profile(at: npt.ArrayLike, knots: Sequence[tuple[float, float]]) -> Plane:
    """Return a smooth curve that approximates the ``knots`` (position, value), evaluated at ``at``, float32."""
    low, high, cells = -0.3, 1.3, 1600
    where, values = np.array(knots).T
    table = np.interp(np.linspace(low, high, cells), where, values)
    window = np.hanning(61)
    table = as_plane(np.convolve(np.pad(table, 30, mode="edge"), window / window.sum(), mode="valid"))  # (cells,)
    position = np.clip((as_plane(at) - low) * ((cells - 1) / (high - low)), 0, cells - 1.01)
    cell = position.astype(np.int32)
    slope = np.diff(table, append=table[-1])
    return as_plane(table[cell] + slope[cell] * (position - cell))


def mottle(rng: Random, grid: int, cells: int) -> Plane:
    """Return smooth noise of unit amplitude with about ``cells`` bumps per side, float32 (grid, grid)."""
    cells = min(cells, grid)
    noise = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32))
    return np.asarray(noise.resize((grid, grid), Image.Resampling.BICUBIC))


def smoothstep(value: Plane, width: float) -> Plane:
    """Return a smooth ramp from 0 to 1, centred where ``value`` is 0 and as wide as ``width``."""
    ramp = np.clip(value * np.float32(1 / width) + np.float32(0.5), 0, 1)
    return as_plane(ramp * ramp * (3 - 2 * ramp))
