"""Calibration and thresholds: probabilities close to the true ones, and thresholds by the rules."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit

from cxrfeat.head.thresholds import RULES, choose_threshold
from cxrfeat.labels.findings import ANY_FINDING, FINDINGS, any_finding
from cxrfeat.labels.label_sets import NIH14
from head_training.training.fit_calibration import MIN_IMAGES, CalibrationMethod, choose_thresholds, fit_calibration

UNWEIGHTED = np.ones((2, 14), dtype=np.float32)


def sample(
    count: int, *, slope: float, shift: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return distorted logits, labels, patients with about two images each, and the true probabilities."""
    random = np.random.default_rng(seed)
    logits = random.normal(-1, 1.5, size=(count, 14))
    probabilities = expit(logits)
    labels = (random.uniform(size=logits.shape) < probabilities).astype(np.float32)
    patients = np.array([str(number) for number in random.integers(count // 2, size=count)])
    return ((logits - shift) / slope).astype(np.float32), labels, patients, probabilities


def test_label_weights_are_undone_exactly() -> None:
    """The minimiser of the weighted cross-entropy becomes the share of positives, where no line is fitted."""
    weights = np.stack([np.linspace(1, 2, 14), np.linspace(1, 100, 14)]).astype(np.float32)
    share = np.linspace(0.05, 0.6, 14)
    # With share π of positives and weights w⁺, w⁻, the minimiser is w⁺π / (w⁺π + w⁻(1 - π)).
    minimiser = weights[1] * share / (weights[1] * share + weights[0] * (1 - share))
    logits = np.log(minimiser / (1 - minimiser))[np.newaxis].repeat(MIN_IMAGES - 1, axis=0).astype(np.float32)
    labels = np.zeros_like(logits)
    calibration, methods = fit_calibration(logits, labels, np.arange(len(logits)).astype(str), weights)
    assert methods == [CalibrationMethod.NONE] * 14
    np.testing.assert_allclose(calibration.apply(torch.from_numpy(logits))[0], share, rtol=1e-5)


@pytest.mark.slow
def test_a_distorted_head_is_corrected_and_a_good_one_stays() -> None:
    """Platt scaling recovers slope and shift; correct logits gain nothing from it, and some keep theirs."""
    logits, labels, patients, expected = sample(4000, slope=0.4, shift=1.0)
    calibration, methods = fit_calibration(logits, labels, patients, UNWEIGHTED)
    assert methods == [CalibrationMethod.PLATT] * 14
    np.testing.assert_allclose(calibration.slope, 0.4, rtol=0.15)
    np.testing.assert_allclose(calibration.intercept, 1.0, atol=0.25)
    before, after = (
        np.abs(p - expected).mean() for p in (expit(logits), calibration.apply(torch.from_numpy(logits)).numpy())
    )
    assert after < before / 5
    logits, labels, patients, expected = sample(4000, slope=1.0, shift=0.0)
    calibration, methods = fit_calibration(logits, labels, patients, UNWEIGHTED)
    assert CalibrationMethod.NONE in methods
    np.testing.assert_allclose(calibration.apply(torch.from_numpy(logits)).numpy(), expected, atol=0.04)


@pytest.mark.slow
def test_weights_and_distortion_are_both_undone() -> None:
    """The head was trained with weights, and its logits are distorted too."""
    logits, labels, patients, expected = sample(4000, slope=0.5, shift=0.0)
    weights = np.stack([np.ones(14), np.full(14, 20)]).astype(np.float32)
    calibration, _ = fit_calibration(logits + np.float32(np.log(20)), labels, patients, weights)
    np.testing.assert_allclose(
        calibration.apply(torch.from_numpy(logits) + float(np.log(20))).numpy(), expected, atol=0.05
    )


@pytest.mark.slow
def test_a_slope_is_never_negative() -> None:
    """Logits that fall where they should rise keep slope 1: the calibration must not change the ranks."""
    logits, labels, patients, _ = sample(500, slope=-1.0, shift=0.0)
    calibration, methods = fit_calibration(logits, labels, patients, UNWEIGHTED)
    assert methods == [CalibrationMethod.NONE] * 14
    assert set(calibration.slope) == {1.0}


@pytest.mark.slow
@pytest.mark.parametrize("rare", [MIN_IMAGES - 1, 0])
def test_too_few_images_are_not_fitted(rare: int) -> None:
    """Below the minimum of either class, the logits stay."""
    logits, labels, patients, _ = sample(400, slope=0.4, shift=1.0)
    labels[:, 0], labels[:, 1] = 0, 1
    labels[:rare, 0], labels[:rare, 1] = 1, 0
    _, methods = fit_calibration(logits, labels, patients, UNWEIGHTED)
    assert methods[:2] == [CalibrationMethod.NONE] * 2
    assert set(methods[2:]) == {CalibrationMethod.PLATT}


def test_too_few_patients_are_not_fitted() -> None:
    """Four patients cannot be divided into five folds, however many images they have."""
    logits, labels, _, _ = sample(400, slope=0.4, shift=1.0)
    _, methods = fit_calibration(logits, labels, np.array(["1", "2", "3", "4"] * 100), UNWEIGHTED)
    assert methods == [CalibrationMethod.NONE] * 14


def test_thresholds_follow_the_rules_for_each_finding_and_any() -> None:
    """One per rule and finding; None for a finding without positives."""
    _, labels, _, expected = sample(300, slope=1, shift=0)
    probabilities = expected.astype(np.float32)
    labels[:, FINDINGS.index("Hernia")] = 0
    thresholds = choose_thresholds(labels, probabilities, NIH14)
    assert tuple(thresholds) == RULES
    score = any_finding(probabilities).astype(np.float32)
    for rule, chosen in thresholds.items():
        assert list(chosen) == [*FINDINGS, ANY_FINDING]
        assert chosen["Hernia"] is None
        assert chosen["Mass"] == choose_threshold(labels[:, 4], probabilities[:, 4], rule)
        assert chosen[ANY_FINDING] == choose_threshold(labels.max(axis=1), score, rule)
    found = probabilities[labels[:, 4] == 1, 4] >= np.float32(thresholds["sensitivity_0.90"]["Mass"] or 0)
    assert found.mean() >= 0.9
