"""What the findings add to a chest: fluid, haze, lumps, lines; each in place, at a spot of its own."""

from __future__ import annotations

import numpy as np

from cxrfeat.phantom.anatomy import Chest, Shape, oval
from cxrfeat.phantom.frame import Ink, Plane, as_plane, ellipse, mottle, step

Random = np.random.Generator


def either_side(rng: Random) -> int:
    """Return -1 for the picture's left, 1 for its right."""
    return 1 if rng.random() < 0.5 else -1


def _sides(rng: Random, both: float) -> tuple[int, ...]:
    """Return one side or, with probability ``both``, the two."""
    return (-1, 1) if rng.random() < both else (either_side(rng),)


def _on(chest: Chest, side: int) -> Plane:
    """Return 1 on that side and 0 on the other, with a soft change near the midline."""
    return step(chest.frame.x * np.float32(side) - np.float32(0.03), 0.08)


def _dome(shape: Shape, side: int) -> float:
    return shape.dome[0 if side < 0 else 1]


def _fill(chest: Chest, part: Plane) -> None:
    """Displace ``part`` (0..1) of the air; vessels drown in what replaces it."""
    chest.air *= 1 - part
    chest.vessels *= 1 - part


def _spot(chest: Chest, rng: Random, high: float, low: float) -> tuple[float, float]:
    """Return a place in a lung, its height between ``high`` and ``low`` (0 apex, 1 diaphragm)."""
    side, shape = either_side(rng), chest.shape
    y = shape.apex + rng.uniform(high, low) * (_dome(shape, side) - 0.02 - shape.apex)
    width = float(shape.half_width(np.array(y)))
    return side * rng.uniform(0.55, 0.85) * width, y


def _cloud(chest: Chest, rng: Random, centre: tuple[float, float], radii: tuple[float, float]) -> Plane:
    """Return a fluffy cloud, 0..1, about an ellipse."""
    level = oval(chest.frame, centre, radii, rng.uniform(-0.6, 0.6))
    grid = chest.frame.grid
    fluff = np.clip(0.77 + 0.11 * mottle(rng, grid, 18) + 0.10 * mottle(rng, grid, 50), 0, 1)
    return as_plane(np.exp(1.4 * np.minimum(level - 0.7, 0)) * fluff)


def atelectasis(chest: Chest, rng: Random) -> None:
    """Draw plates of airless lung above the raised dome."""
    side, tilt, ink = either_side(rng), rng.normal(0, 0.015), Ink(chest.frame)
    dome = _dome(chest.shape, side)
    along = np.linspace(-1, 1, 9)
    for _ in range(rng.integers(2, 4)):
        x, y = rng.uniform(0.17, 0.25), dome - rng.uniform(0.03, 0.15)
        bend = y + (tilt + rng.normal(0, 0.006)) * along
        path = np.stack([side * (x + rng.uniform(0.06, 0.09) * along), bend], axis=1)
        ink.ribbon(path, rng.uniform(0.004, 0.007) * (1.1 - along**2), 0.9)
    chest.density += 5.5 * ink.plane(0.0018) * chest.lung
    _fill(chest, 0.4 * _on(chest, side) * np.exp(-np.clip(dome - chest.frame.y, 0, None) / 0.06))


def effusion(chest: Chest, rng: Random) -> None:
    """Pour fluid into the costophrenic angle, its surface climbing the wall (meniscus)."""
    for side in _sides(rng, both=0.3):
        deep = rng.uniform(0.0, 0.14)
        surface = _dome(chest.shape, side) + 0.03 - deep - (0.05 + 0.5 * deep) * chest.reach**6
        fluid = _on(chest, side) * step(chest.frame.y - surface, 0.03) * step(1 - chest.reach, 0.02)
        _fill(chest, fluid)
        chest.density += 0.6 * fluid


def infiltration(chest: Chest, rng: Random) -> None:
    """Veil one or two wide, faint areas."""
    for _ in range(rng.integers(1, 3)):
        radii = rng.uniform(0.08, 0.12), rng.uniform(0.09, 0.14)
        _fill(chest, 0.5 * _cloud(chest, rng, _spot(chest, rng, 0.35, 0.85), radii))


def _lump(chest: Chest, rng: Random, x: float, y: float, radius: float) -> Plane:
    """Return the thickness (0..1) of a slightly lobed ball at (x, y)."""
    right, down = chest.frame.x - np.float32(x), chest.frame.y - np.float32(y)
    turn = np.arctan2(down, right)
    lobes = 1 + 0.06 * np.sin(2 * turn + rng.uniform(0, 6)) + 0.03 * np.sin(5 * turn + rng.uniform(0, 6))
    return as_plane(np.clip(1 - (right**2 + down**2) / (radius * lobes) ** 2, 0, 1) ** 0.7)


def mass(chest: Chest, rng: Random) -> None:
    """Put one lump of 3.5 to 5.5 cm into a lung."""
    x, y = _spot(chest, rng, 0.2, 0.8)
    lump = _lump(chest, rng, x, y, rng.uniform(0.045, 0.072))
    _fill(chest, 0.5 * lump)
    chest.density += 1.5 * lump * chest.lung


def nodule(chest: Chest, rng: Random) -> None:
    """Put one to three lumps of 1.1 to 1.7 cm into the lungs."""
    for _ in range(rng.integers(1, 4)):
        x, y = _spot(chest, rng, 0.15, 0.85)
        chest.density += 6.0 * _lump(chest, rng, x, y, rng.uniform(0.015, 0.023)) * chest.lung


def pneumonia(chest: Chest, rng: Random) -> None:
    """Scatter patches over one part of a lung."""
    x, y = _spot(chest, rng, 0.45, 0.85)
    _fill(chest, 0.25 * _cloud(chest, rng, (x, y), (0.08, 0.1)))
    for _ in range(rng.integers(6, 10)):
        centre = rng.normal(x, 0.045), rng.normal(y, 0.06)
        radii = rng.uniform(0.018, 0.036), rng.uniform(0.018, 0.036)
        _fill(chest, 0.3 * _cloud(chest, rng, centre, radii))


def consolidation(chest: Chest, rng: Random) -> None:
    """Fill a lobe up to its fissure, sparing the air in its bronchi."""
    side, upper = either_side(rng), rng.random() < 0.5
    tilt = rng.uniform(-0.1, 0.25)
    fissure = as_plane((0.45 if upper else 0.6) + rng.normal(0, 0.02) + tilt * (np.abs(chest.frame.x) - 0.2))
    lobe = step((fissure - chest.frame.y) * (1 if upper else -1), 0.02) * _on(chest, side)
    _fill(chest, lobe * (0.76 + 0.05 * mottle(rng, chest.frame.grid, 12)))
    bronchi = Ink(chest.frame)
    for turn in rng.uniform(-1.3, -0.3, 5) if upper else rng.uniform(0.4, 1.3, 5):
        reach = np.linspace(0.02, 0.2, 6)[:, None]
        bronchi.stroke((side * 0.09, 0.5) + reach * (side * np.cos(turn), np.sin(turn)), 0.006, 1.0)
    chest.density -= 1.6 * bronchi.plane(0.002) * lobe * chest.lung


def pneumothorax(chest: Chest, rng: Random) -> None:
    """Let the lung fall away from the wall: a thin pleural line, nothing but air beyond."""
    side, gap = either_side(rng), rng.uniform(0.17, 0.36)
    rise = np.clip((0.75 - chest.frame.y) / 0.6, 0, 1)
    beyond = (chest.reach - (1 - gap * (0.35 + rise))) * chest.shape.wall
    here = _on(chest, side)
    free = step(beyond, 0.004) * here
    chest.vessels *= 1 - free
    chest.air *= 1 + 0.16 * free - 0.16 * (here - free)
    chest.density += 2.2 * np.exp(-((beyond / 0.0028) ** 2)) * here * chest.lung


def edema(chest: Chest, rng: Random) -> None:
    """Spread a bat's wings of haze from both hila and swell the vessels."""
    chest.vessels *= 1.3
    for side in (-1, 1):
        _fill(chest, 0.62 * _cloud(chest, rng, (side * 0.15, 0.5), (0.11, 0.19)))


def fibrosis(chest: Chest, rng: Random) -> None:
    """Draw a net of fine rings and threads over the outer lower lungs."""
    net = Ink(chest.frame)
    shape = chest.shape
    for _ in range(420):
        side = either_side(rng)
        y = _dome(shape, side) + 0.08 - rng.exponential(0.1)
        x = side * float(shape.half_width(np.array(y))) * (1 - 0.75 * rng.random() ** 1.6)
        ring = ellipse(x, y, rng.uniform(0.004, 0.01), rng.uniform(0.004, 0.01), 7)
        net.stroke(ring + rng.normal(0, 0.0015, ring.shape), 0.0022, 0.9)
    _fill(chest, 0.22 * np.exp(-np.clip(0.8 - chest.frame.y, 0, None) / 0.12))
    chest.density += 2.6 * net.plane(0.0008) * chest.lung


def pleural_thickening(chest: Chest, rng: Random) -> None:
    """Line the lateral chest wall with an uneven band and blunt the angle below."""
    for side in _sides(rng, both=0.25):
        thick = rng.uniform(0.028, 0.044) * (1 + 0.25 * mottle(rng, chest.frame.grid, 9))
        thick = thick * step(chest.frame.y - rng.uniform(0.28, 0.42), 0.15)
        inward = (1 - chest.reach) * chest.shape.half_width(chest.frame.y)
        band = step(thick - inward, 0.012) * _on(chest, side) * step(1 - chest.reach, 0.02)
        _fill(chest, 0.75 * band)
        chest.density += 0.8 * band


def hernia(chest: Chest, rng: Random) -> None:
    """Put a piece of stomach behind the heart: a round wall, gas above a fluid level."""
    x, radius = rng.uniform(-0.02, 0.07), rng.uniform(0.062, 0.085)
    y = 0.5 * sum(chest.shape.dome) - 0.07
    level = oval(chest.frame, (x, y), (1.15 * radius, radius))
    inside, gas = step(level, 0.12), step(np.float32(y + 0.01) - chest.frame.y, 0.008)
    _fill(chest, inside)
    chest.density += 2.5 * np.exp(-((level / 0.13) ** 2)) + inside * (1.5 - 9.5 * gas)
