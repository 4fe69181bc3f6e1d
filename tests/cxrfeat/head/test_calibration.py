"""Tests of the calibration: one line per finding, ranks preserved."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cxrfeat.head.calibration import Calibration, identity


def test_probabilities_are_the_sigmoid_of_the_line() -> None:
    """Each finding has its own line; extreme logits give exactly 0 and 1 without a warning."""
    slope, intercept = np.linspace(0.5, 2, 14), np.linspace(-3, 3, 14)
    logits = torch.tensor(np.random.default_rng(0).normal(size=(50, 14)), dtype=torch.float64) * 3
    expected = 1 / (1 + np.exp(-(slope * logits.numpy() + intercept)))
    np.testing.assert_allclose(Calibration(slope, intercept).apply(logits).numpy(), expected, rtol=1e-12)
    assert identity(14).apply(torch.tensor([[-1e4, 1e4] * 7])).tolist() == [[0.0, 1.0] * 7]


def test_the_logits_are_not_modified() -> None:
    """The caller can still rank by the logits."""
    logits = torch.zeros(2, 14)
    identity(14).apply(logits)
    assert not logits.any()


@pytest.mark.parametrize(
    ("slope", "intercept", "message"),
    [
        (np.ones(13), np.zeros(14), r"intercept has shape \(14,\) .*expected 13 finite values"),
        (np.ones(14), np.full(14, np.nan), "intercept has .* 0 finite values; expected 14"),
        (np.linspace(-0.1, 1, 14), np.zeros(14), "slopes of labels 0, 1 are 0 or below"),
        (np.zeros(14), np.zeros(14), "are 0 or below"),
    ],
)
def test_lines_that_would_change_ranks_are_refused(slope: np.ndarray, intercept: np.ndarray, message: str) -> None:
    """Invalid lines are rejected; for slopes the message names the columns."""
    with pytest.raises(ValueError, match=message):
        Calibration(slope, intercept)
