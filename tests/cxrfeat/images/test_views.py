"""Tests of the views: seeded by the image, within their limits, and geometrically right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from cxrfeat.errors import ConfigError
from cxrfeat.images.preprocess import to_model_input
from cxrfeat.images.views import (
    MAX_ROTATION,
    MAX_SHIFT,
    MAX_ZOOM,
    AffineParameters,
    draw_parameters,
    make_view,
    parse_views,
    transform,
)
from tests import fakes

IDENTITY = AffineParameters(0, 0, 0, 1)
IMAGE = fakes.gray_image(64, 64)


@pytest.mark.parametrize(
    ("text", "views"),
    [
        ("hflip", ("hflip",)),
        ("affine:1", ("affine-1",)),
        ("hflip,affine:3", ("hflip", "affine-1", "affine-2", "affine-3")),
        ("affine:2,hflip", ("affine-1", "affine-2", "hflip")),
    ],
)
def test_views_are_listed_by_name(text: str, views: tuple[str, ...]) -> None:
    """The order of the option is the order of the rows."""
    assert parse_views(text) == views


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unknown view ''; expected hflip, affine:N"),
        ("none", "unknown view 'none'"),
        ("affine", "unknown view 'affine'"),
        ("affine:-1", "unknown view 'affine:-1'"),
        ("affine:0", "0 affine views; expected 1 to 20"),
        ("affine:21", "21 affine views; expected 1 to 20"),
        ("hflip,hflip", "repeated view in --views"),
        ("affine:1,affine:2", "repeated view in --views"),
        ("hflip, affine:1", "unknown view ' affine:1'"),
    ],
)
def test_other_views_are_refused(text: str, message: str) -> None:
    """The message contains the entry and what is expected."""
    with pytest.raises(ConfigError, match=message):
        parse_views(text)


@pytest.mark.parametrize("sixteen", [False, True])
@pytest.mark.parametrize("size", [(32, 32), (70, 41), (300, 512)])
def test_mirroring_before_and_after_is_the_same(size: tuple[int, int], sixteen: bool) -> None:
    """Flipping the model input equals flipping the image, within a level of rounding."""
    pixels = fakes.gray_image(*size)
    image: Any = pixels.astype(np.uint16) * 257 if sixteen else pixels
    mirrored = make_view(to_model_input(image), "hflip", image_path="a.png")
    difference = mirrored.astype(int) - to_model_input(np.ascontiguousarray(image[:, ::-1]))
    assert np.abs(difference).max() <= 1


def test_the_plain_view_is_the_image() -> None:
    """``none`` changes nothing, and neither does an affine transform without rotation, shift and zoom."""
    np.testing.assert_array_equal(make_view(IMAGE, "none", image_path="a.png"), IMAGE)
    np.testing.assert_array_equal(transform(IMAGE, IDENTITY), IMAGE)


def test_shifts_move_right_and_down() -> None:
    """A shift by whole pixels moves them exactly, and what comes in is black."""
    moved = transform(IMAGE, AffineParameters(0, 4 / 64, -2 / 64, 1))
    np.testing.assert_array_equal(moved[:-2, 4:], IMAGE[2:, :-4])
    assert not moved[:, :3].any()
    assert not moved[-1:].any()


def test_a_quarter_turn_is_exact() -> None:
    """A rotation by 90 degrees is counter-clockwise about the centre, within a level of rounding."""
    turned = transform(IMAGE, AffineParameters(90, 0, 0, 1)).astype(int)
    assert np.abs(turned - np.rot90(IMAGE)).max() <= 1


@pytest.mark.parametrize("parameters", [AffineParameters(7, 0.05, -0.1, 1.1), AffineParameters(-10, -0.02, 0.03, 0.9)])
def test_it_equals_scipys_affine_transform(parameters: AffineParameters) -> None:
    """An independent implementation with bilinear interpolation gives the same inner pixels within a level."""
    smooth = np.rint(ndimage.gaussian_filter(IMAGE.astype(float), 2)).astype(np.uint8)
    angle = np.radians(parameters.degrees)
    # Output (row, column) → input: rotate back about the centre, undo the zoom.
    matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / parameters.zoom
    centre = np.array([31.5, 31.5])
    target = centre + 64 * np.array([parameters.shift_y, parameters.shift_x])
    expected = ndimage.affine_transform(smooth.astype(float), matrix, centre - matrix @ target, order=1)
    difference = np.abs(transform(smooth, parameters).astype(float) - expected)
    assert difference[12:-12, 12:-12].max() <= 1.01


@given(st.text(max_size=20), st.integers(0, 2**31), st.integers(1, 20))
def test_parameters_stay_within_their_limits(path: str, seed: int, number: int) -> None:
    """Rotation, shift and zoom are bounded, and the same arguments give the same parameters."""
    drawn = draw_parameters(f"affine-{number}", image_path=path, seed=seed)
    assert abs(drawn.degrees) <= MAX_ROTATION
    assert max(abs(drawn.shift_x), abs(drawn.shift_y)) <= MAX_SHIFT
    assert abs(drawn.zoom - 1) <= MAX_ZOOM
    assert draw_parameters(f"affine-{number}", image_path=path, seed=seed) == drawn


def test_parameters_are_spread_evenly() -> None:
    """Over 2,000 images each parameter fills its range evenly and independently of the others."""
    drawn = [draw_parameters("affine-1", image_path=f"{index}.png", seed=0) for index in range(2000)]
    values = np.array([[p.degrees / 10, p.shift_x * 10, p.shift_y * 10, (p.zoom - 1) * 10] for p in drawn])
    assert np.abs(values.mean(axis=0)).max() < 0.05
    np.testing.assert_allclose(values.var(axis=0), 1 / 3, rtol=0.08)
    assert np.abs(np.corrcoef(values.T) - np.eye(4)).max() < 0.08


def test_path_view_and_seed_each_change_the_view() -> None:
    """Two images, two views of one image and two seeds differ."""
    first = make_view(IMAGE, "affine-1", image_path="a.png", seed=0)
    for view, path, seed in (("affine-2", "a.png", 0), ("affine-1", "b.png", 0), ("affine-1", "a.png", 1)):
        assert not np.array_equal(make_view(IMAGE, view, image_path=path, seed=seed), first)
