"""What a calibration promises: a line on each logit, ranks kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cxrfeat.head.calibration import Calibration, identity


def test_probabilities_are_the_sigmoid_of_the_line() -> None:
    """Each finding has its own; far out, they are 0 and 1 without a warning."""
    slope, intercept = np.linspace(0.5, 2, 14), np.linspace(-3, 3, 14)
    logits = torch.tensor(np.random.default_rng(0).normal(size=(50, 14)), dtype=torch.float64) * 3
    expected = 1 / (1 + np.exp(-(slope * logits.numpy() + intercept)))
    np.testing.assert_allclose(Calibration(slope, intercept).apply(logits).numpy(), expected, rtol=1e-12)
    assert identity().apply(torch.tensor([[-1e4, 1e4] * 7])).tolist() == [[0.0, 1.0] * 7]


def test_what_is_given_is_left_as_it_was() -> None:
    """Logits are not written to: whoever ranks by them can still do so."""
    logits = torch.zeros(2, 14)
    identity().apply(logits)
    assert not logits.any()


@pytest.mark.parametrize(
    ("slope", "intercept", "said"),
    [
        (np.ones(13), np.zeros(14), "slope is .* expected 14 finite numbers"),
        (np.ones(14), np.full(14, np.nan), r"(?s)intercept is .* expected 14 finite"),
        (np.linspace(-0.1, 1, 14), np.zeros(14), r"slopes of \['Atelectasis', 'Cardiomegaly'\] are not above 0"),
        (np.zeros(14), np.zeros(14), "are not above 0"),
    ],
)
def test_lines_that_would_change_ranks_are_refused(slope: np.ndarray, intercept: np.ndarray, said: str) -> None:
    """With the findings that they are of."""
    with pytest.raises(ValueError, match=said):
        Calibration(slope, intercept)
