"""Views of an image for training: mirrored, or rotated, shifted and zoomed by a seeded amount.

A view is computed from the model input. Its parameters depend on the image's path, the view's name and the seed alone,
so that they are the same for any partitioning and in every later run.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxrfeat.errors import ConfigError
from cxrfeat.io.schema import AFFINE, Augmentation

MAX_ROTATION = 10.0
"""Largest rotation in degrees, in both directions."""

MAX_SHIFT = 0.1
"""Largest shift along each axis, as a fraction of the image's side."""

MAX_ZOOM = 0.1
"""Largest change of size: 0.9 to 1.1 times."""

MAX_AFFINE_VIEWS = 20

_AFFINE = re.compile(rf"{AFFINE}:(\d+)")


@dataclass(frozen=True)
class AffineParameters:
    """Rotation, shift and zoom of one view.

    Attributes:
        degrees: rotation, counter-clockwise.
        shift_x, shift_y: shift to the right and down, as fractions of the side.
        zoom: factor of the size.
    """

    degrees: float
    shift_x: float
    shift_y: float
    zoom: float


def parse_views(text: str) -> tuple[str, ...]:
    """Return the names of the views that an option lists.

    Raises:
        ConfigError: an entry is unknown or occurs twice, or the number of affine views is out of range.

    Example:
        >>> parse_views("hflip,affine:2")
        ('hflip', 'affine-1', 'affine-2')
    """
    views: list[str] = []
    for entry in text.split(","):
        affine = _AFFINE.fullmatch(entry)
        if entry != Augmentation.HFLIP and not affine:
            raise ConfigError(f"unknown view {entry!r}; expected hflip, affine:N or both, separated by a comma")
        count = int(affine[1]) if affine else 1
        if not 1 <= count <= MAX_AFFINE_VIEWS:
            raise ConfigError(f"{count} affine views; expected 1 to {MAX_AFFINE_VIEWS}")
        views += [f"{AFFINE}-{index + 1}" for index in range(count)] if affine else [entry]
    if len(set(views)) < len(views):
        raise ConfigError(f"repeated view in --views {text}")
    return tuple(views)


def make_view(model_input: NDArray[np.uint8], view: str, *, image_path: str, seed: int = 0) -> NDArray[np.uint8]:
    """Return a view of a model input.

    Args:
        model_input: (H, W) uint8.
        view: ``none``, ``hflip`` or ``affine-N``.
        image_path: path of the image relative to the images root.
        seed: seed of the affine views.

    Returns:
        (H, W) uint8; what an affine view moves in from outside the image is black.
    """
    if view == Augmentation.NONE:
        return model_input
    if view == Augmentation.HFLIP:
        return model_input[..., ::-1]
    return transform(model_input, draw_parameters(view, image_path=image_path, seed=seed))


def draw_parameters(view: str, *, image_path: str, seed: int) -> AffineParameters:
    """Return the parameters of an affine view, uniform within their limits and determined by the arguments."""
    digest = hashlib.sha256("\n".join((str(seed), view, image_path)).encode(errors="surrogateescape")).digest()
    # Four independent fractions in [0, 1) of 64 bits each, mapped to [-1, 1).
    uniform: Sequence[float] = (np.frombuffer(digest, dtype=">u8") / 2.0**64 * 2 - 1).tolist()
    return AffineParameters(
        uniform[0] * MAX_ROTATION, uniform[1] * MAX_SHIFT, uniform[2] * MAX_SHIFT, 1 + uniform[3] * MAX_ZOOM
    )


def transform(model_input: NDArray[np.uint8], parameters: AffineParameters) -> NDArray[np.uint8]:
    """Rotate and zoom a (H, W) image about its centre, then shift it; bilinear, black outside."""
    height, width = model_input.shape
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    cos = math.cos(math.radians(parameters.degrees)) / parameters.zoom
    sin = math.sin(math.radians(parameters.degrees)) / parameters.zoom
    target_x, target_y = centre_x + parameters.shift_x * width, centre_y + parameters.shift_y * height
    # Pillow maps pixel centres of the output to the input: x' = a (x + ½) + b (y + ½) + c, minus ½.
    a, b, d, e = cos, -sin, sin, cos
    c = centre_x + 0.5 - a * (target_x + 0.5) - b * (target_y + 0.5)
    f = centre_y + 0.5 - d * (target_x + 0.5) - e * (target_y + 0.5)
    moved = Image.fromarray(model_input).transform(
        (width, height), Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BILINEAR
    )
    return np.asarray(moved)
