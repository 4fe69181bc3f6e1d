"""From a head's logits to probabilities: one increasing line for each finding, so ranks and AUROC stay.

A line is enough for both corrections that are made, one after the other (:mod:`head_training.training.fit_calibration` fits them):

1. Label weights are undone exactly. The minimiser of a cross-entropy that weighs positives w⁺ and negatives w⁻ is not
   the probability π but logit π + log(w⁺ / w⁻), so log(w⁺ / w⁻) is taken off.
2. Platt scaling, a · logit + b, where it helps. Source: Platt, Probabilistic outputs for support vector machines, 1999.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cxrfeat.labels.findings import FINDINGS


@dataclass(frozen=True)
class Calibration:
    """The line of each finding: logit of the probability = slope · logit + intercept.

    Attributes:
        slope: (14,) float64, above 0.
        intercept: (14,) float64.

    Raises ValueError for other shapes, slopes that are not above 0, and values that are not finite.
    """

    slope: NDArray[np.float64]
    intercept: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Check that ranks stay."""
        for name in ("slope", "intercept"):
            values = getattr(self, name)
            if values.shape != (len(FINDINGS),) or not np.isfinite(values).all():
                raise ValueError(f"{name} is {values!r}; expected {len(FINDINGS)} finite numbers")
        if not (self.slope > 0).all():
            raise ValueError(f"slopes of {self._named(self.slope <= 0)} are not above 0: their ranks would turn around")

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Return (N, 14) probabilities of (N, 14) logits, in their dtype and on their device."""
        slope, intercept = (torch.from_numpy(line).to(logits) for line in (self.slope, self.intercept))
        return torch.addcmul(intercept, logits, slope).sigmoid_()

    @staticmethod
    def _named(wrong: NDArray[np.bool_]) -> list[str]:
        return [FINDINGS[column] for column in np.flatnonzero(wrong)]


def identity() -> Calibration:
    """Return the calibration that takes logits as they are."""
    return Calibration(np.ones(len(FINDINGS)), np.zeros(len(FINDINGS)))
