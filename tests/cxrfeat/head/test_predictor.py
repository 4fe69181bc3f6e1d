"""Tests of the predictor: probabilities equal a plain forward pass, and columns name the findings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from scipy.special import expit

from cxrfeat.errors import BundleError
from cxrfeat.head import predictor
from cxrfeat.head.bundle import Bundle
from cxrfeat.head.predictor import Predictor
from cxrfeat.io.schema import predictions_schema, scored_schema
from cxrfeat.labels.findings import ANY_FINDING, FINDINGS
from cxrfeat.labels.label_sets import LABEL_SETS
from tests import fakes

DIM = 6


def plain_forward(bundle: Bundle, embeddings: np.ndarray, ages: np.ndarray, sexes: np.ndarray) -> np.ndarray:
    """Return reference probabilities, computed with NumPy in float64."""
    ages = np.where(np.isnan(ages), bundle.inputs.imputed["age"], ages) / 100
    sexes = np.where(np.isnan(sexes), bundle.inputs.imputed["sex"], sexes)
    values = np.column_stack([(embeddings - bundle.inputs.mean) / bundle.inputs.scale, ages, sexes]).astype(np.float64)
    for number, layer in enumerate(bundle.head.layers):
        weight, bias = (tensor.detach().double().numpy() for tensor in layer.parameters())
        values = values @ weight.T + bias
        if number < len(bundle.head.layers) - 1:
            values = np.maximum(values, 0)
    return np.asarray(expit(values * bundle.calibration.slope + bundle.calibration.intercept))


def examples(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(count)
    ages, sexes = random.uniform(0, 95, count), random.integers(0, 2, count).astype(np.float64)
    ages[::3], sexes[::4] = np.nan, np.nan
    return (random.normal(size=(count, DIM)).astype(np.float32), ages.astype(np.float32), sexes.astype(np.float32))


@pytest.mark.parametrize("count", [0, 1, 10, 25])
def test_probabilities_are_those_of_a_plain_forward_pass(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They agree to 1e-6, for any number of blocks, with missing age and sex imputed."""
    monkeypatch.setattr(predictor, "_BLOCK_ROWS", 10)
    bundle = fakes.bundle(DIM)
    embeddings, ages, sexes = examples(count)
    before = embeddings.copy()
    found = Predictor(bundle, "youden").predict(embeddings, {"age": ages, "sex": sexes})
    expected = plain_forward(bundle, embeddings, ages, sexes)
    np.testing.assert_allclose(found.probabilities, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.any_finding, 1 - np.prod(1 - expected, axis=1), rtol=0, atol=1e-6)
    assert np.array_equal(found.imputed["age"], np.isnan(ages))
    assert np.array_equal(found.imputed["sex"], np.isnan(sexes))
    assert np.array_equal(embeddings, before), "the caller's embeddings were changed"


def test_a_head_without_age_and_sex_imputes_nothing() -> None:
    """Covariates that the head does not use need not be given."""
    bundle = fakes.bundle(DIM, covariates=())
    predictor = Predictor(bundle, "youden")
    found = predictor.predict(examples(4)[0], {})
    assert found.imputed == {}
    assert predictor.to_columns(found)["imputed"].to_pylist() == [[]] * 4


def test_columns_name_positive_findings_and_imputed_covariates() -> None:
    """A finding is positive at or above its threshold, never without one; any finding is then unknown."""
    bundle = fakes.bundle(DIM)
    embeddings, ages, sexes = examples(12)
    expected = plain_forward(bundle, embeddings, ages, sexes).astype(np.float32)
    thresholds: dict[str, float | None] = dict.fromkeys(FINDINGS, 0.5) | {"Mass": None, ANY_FINDING: None}
    found = Predictor(bundle, "youden").predict(embeddings, {"age": ages, "sex": sexes})
    thresholds["Nodule"] = float(found.probabilities[3, 5])
    predictor = Predictor(replace(bundle, thresholds={"youden": thresholds}), "youden")
    columns = predictor.to_columns(found)
    for row, positives in enumerate(columns["positives"].to_pylist()):
        names = [n for n, p in zip(FINDINGS, expected[row], strict=True) if n not in ("Mass", "Nodule") and p >= 0.5]
        assert [name for name in positives if name != "Nodule"] == names
    assert "Nodule" in columns["positives"].to_pylist()[3]
    assert any(columns["positives"].to_pylist())
    assert columns["any_finding_positive"].null_count == 12
    assert columns["imputed"].to_pylist()[:5] == [["age", "sex"], [], [], ["age"], ["sex"]]
    for name, column in columns.items():
        assert column.type == predictions_schema(FINDINGS).field(name).type
        assert len(column) == 12


def test_any_finding_has_its_own_threshold() -> None:
    """Any finding is positive at or above its threshold."""
    bundle = fakes.bundle(DIM)
    embeddings, ages, sexes = examples(9)
    found = Predictor(bundle, "youden").predict(embeddings, {"age": ages, "sex": sexes})
    middle = float(np.sort(found.any_finding)[4])
    thresholds = {"youden": {**bundle.thresholds["youden"], ANY_FINDING: middle}}
    columns = Predictor(replace(bundle, thresholds=thresholds), "youden").to_columns(found)
    assert columns["any_finding_positive"].type == pa.bool_()
    assert sum(columns["any_finding_positive"].to_pylist()) == 5


def test_an_unknown_operating_point_is_refused() -> None:
    """The message lists the available operating points."""
    with pytest.raises(BundleError, match=r"no operating point 'f2'; it has f1, youden$"):
        Predictor(fakes.bundle(DIM), "f2")


@pytest.mark.parametrize("name", ["normal-abnormal", "chexpert5", "nih14+no-finding"])
def test_columns_are_those_of_the_label_set(name: str) -> None:
    """One column per label; the negative label is predicted, but is no part of any finding."""
    label_set = LABEL_SETS[name]
    predictor = Predictor(fakes.bundle(6, label_set=label_set), "f1")
    covariates = {"age": np.zeros(4, np.float32), "sex": np.zeros(4, np.float32)}
    predictions = predictor.predict(np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32), covariates)
    assert predictions.probabilities.shape == (4, len(label_set.outputs))
    findings = predictions.probabilities[:, : len(label_set.labels)]
    np.testing.assert_allclose(predictions.any_finding, 1 - np.prod(1 - findings, axis=1), rtol=1e-5)
    columns = predictor.to_columns(predictions)
    assert [column for column in columns if column.startswith("probability_")] == [
        f"probability_{label}" for label in label_set.outputs
    ]
    assert predictor.schema == scored_schema(label_set.outputs)
    assert predictor.gradients(np.zeros((1, 6), np.float32), {n: v[:1] for n, v in covariates.items()}).shape == (
        1,
        len(label_set.outputs),
        6,
    )
