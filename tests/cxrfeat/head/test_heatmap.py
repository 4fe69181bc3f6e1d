"""Tests of heat maps: contributions to a logit's first-order change, at their place in the image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cxrfeat.backbones.encoder import EncoderSpec, FrozenEncoder
from cxrfeat.backbones.registry import BACKBONES
from cxrfeat.backbones.weights import Weights
from cxrfeat.device import Precision
from cxrfeat.head.heatmap import heat_maps
from cxrfeat.head.predictor import Predictor
from cxrfeat.images.preprocess import to_model_input
from cxrfeat.labels.findings import FINDINGS
from cxrfeat.phantom.patients import cohort
from cxrfeat.phantom.radiograph import draw
from tests import fakes

UNKNOWN_COVARIATES = {"age": np.array([np.nan], np.float32), "sex": np.array([np.nan], np.float32)}


@pytest.fixture(scope="module")
def encoder() -> Iterator[FrozenEncoder]:
    BACKBONES["small"] = fakes.SMALL
    yield FrozenEncoder(EncoderSpec("small", Weights(None, "random-seed0"), Precision.FP32, 1))
    del BACKBONES["small"]


@pytest.fixture(scope="module")
def phantom() -> np.ndarray:
    (patient, study), *_ = cohort(0, 1)
    return to_model_input(draw(patient, study, 256))


def logits(predictor: Predictor, embeddings: np.ndarray) -> np.ndarray:
    """Return a head's logits in float64, without the library's own forward pass."""
    inputs = predictor.bundle.inputs
    covariates = np.broadcast_to([inputs.imputed["age"] / 100, inputs.imputed["sex"]], (len(embeddings), 2))
    rows = np.concatenate([(embeddings - inputs.mean) / inputs.scale, covariates], axis=1)
    with torch.no_grad():
        return np.asarray(predictor.bundle.head.double()(torch.from_numpy(rows.astype(np.float64))).numpy())


@given(st.integers(0, 1000))
def test_the_sum_of_a_map_is_the_directional_derivative(seed: int) -> None:
    """For every finding, Σ M = ∇z(e) · e, compared with finite differences of the logit along the embedding."""
    random = np.random.default_rng(seed)
    maps = random.gamma(1.0, size=(1, 6, 3, 5)).astype(np.float32)
    embedding = maps.mean(axis=(2, 3))
    predictor = Predictor(fakes.bundle(6, seed=seed % 7), "youden")
    found = heat_maps(predictor.gradients(embedding, UNKNOWN_COVARIATES), maps)
    assert found.shape == (1, 14, 3, 5)
    step = 1e-7
    beyond = embedding.astype(np.float64) * np.array([[1 - step], [1 + step]])
    before, after = logits(Predictor(fakes.bundle(6, seed=seed % 7), "youden"), beyond)
    np.testing.assert_allclose(found.sum(axis=(2, 3))[0], (after - before) / (2 * step), atol=1e-5)


def test_covering_a_cell_changes_the_logit_by_its_part() -> None:
    """Dimming one cell changes each logit by that cell's value: places are right, not only the sum."""
    random = np.random.default_rng(3)
    maps = random.gamma(1.0, size=(1, 6, 2, 2)).astype(np.float32)
    bundle = fakes.bundle(6)
    found = heat_maps(Predictor(bundle, "youden").gradients(maps.mean(axis=(2, 3)), UNKNOWN_COVARIATES), maps)
    step = 1e-6
    for row, column in np.ndindex(2, 2):
        dimmed = maps.astype(np.float64)
        dimmed[:, :, row, column] *= 1 - step
        both = np.concatenate([maps.astype(np.float64), dimmed]).mean(axis=(2, 3))
        whole, less = logits(Predictor(bundle, "youden"), both)
        np.testing.assert_allclose((whole - less) / step, found[0, :, row, column], atol=1e-5)


@pytest.mark.parametrize(("top", "left"), [(32, 32), (32, 160), (160, 32), (160, 160), (96, 96)])
def test_the_map_follows_a_bright_patch(encoder: FrozenEncoder, phantom: np.ndarray, top: int, left: int) -> None:
    """The change that a bright square causes in a phantom's maps is centred on the square, to within a cell."""
    predictor = Predictor(fakes.bundle(2048), "youden")
    marked = phantom.copy()
    marked[top : top + 32, left : left + 32] = 255
    maps = []
    for image in (phantom, marked):
        embedding, feature_maps = encoder.embed_with_maps(image[np.newaxis])
        maps.append(heat_maps(predictor.gradients(embedding, UNKNOWN_COVARIATES), feature_maps)[0])
    added = np.abs(maps[1] - maps[0]).sum(axis=0)
    centre = [float((added.sum(axis=1 - axis) @ (np.arange(7) + 0.5)) / added.sum() * 32) for axis in (0, 1)]
    np.testing.assert_allclose(centre, [top + 16, left + 16], atol=32)


def test_gradients_use_the_bundle_as_predictions_do() -> None:
    """Gradients depend on age and sex, each image's are those it has alone, and the weights keep none."""
    predictor = Predictor(fakes.bundle(6), "youden")
    embeddings = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    covariates = {"age": np.array([2.0, 95.0, np.nan], np.float32), "sex": np.array([1.0, 0.0, np.nan], np.float32)}
    together = predictor.gradients(embeddings, covariates)
    assert together.shape == (3, len(FINDINGS), 6)
    for row in range(3):
        alone = predictor.gradients(embeddings[[row]], {name: value[[row]] for name, value in covariates.items()})
        np.testing.assert_allclose(together[[row]], alone, rtol=1e-5, atol=1e-7)
    assert all(parameter.grad is None for parameter in predictor.bundle.head.parameters())


@pytest.mark.parametrize(
    ("gradients", "maps"), [((1, 14, 6), (1, 5, 7, 7)), ((2, 14, 6), (1, 6, 7, 7)), ((14, 6), (1, 6, 7, 7))]
)
def test_shapes_that_do_not_match_are_refused(gradients: tuple[int, ...], maps: tuple[int, ...]) -> None:
    """The message contains the expected shapes."""
    with pytest.raises(ValueError, match=r"expected \(N, K, dim\)"):
        heat_maps(np.zeros(gradients, np.float32), np.zeros(maps, np.float32))
