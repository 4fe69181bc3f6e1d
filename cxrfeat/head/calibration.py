"""Calibration of logits to probabilities: one increasing line per finding, which preserves ranks and AUROC.

A line can express both corrections that :mod:`head_training.training.fit_calibration` fits, one after the other:

1. Exact removal of label weights. The minimiser of a cross-entropy with weights w⁺ for positives and w⁻ for negatives
   is logit π + log(w⁺ / w⁻) instead of the logit of the probability π, so log(w⁺ / w⁻) is subtracted.
2. Platt scaling, a · logit + b, if it helps. Source: Platt, Probabilistic outputs for support vector machines, 1999.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cxrfeat.labels.findings import FINDINGS


@dataclass(frozen=True)
class Calibration:
    """Calibration line of each finding: logit of the probability = slope · logit + intercept.

    Attributes:
        slope: (14,) float64, greater than 0.
        intercept: (14,) float64.

    Raises ValueError for another shape, a slope of 0 or below, or a value that is not finite.
    """

    slope: NDArray[np.float64]
    intercept: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Check shapes and values: only positive slopes preserve ranks."""
        for name in ("slope", "intercept"):
            values = getattr(self, name)
            if values.shape != (len(FINDINGS),) or not np.isfinite(values).all():
                raise ValueError(
                    f"{name} has shape {values.shape} and {np.isfinite(values).sum()} finite values; "
                    f"expected {len(FINDINGS)} finite values"
                )
        if not (self.slope > 0).all():
            names = ", ".join(FINDINGS[column] for column in np.flatnonzero(self.slope <= 0))
            raise ValueError(f"slopes of {names} are 0 or below; calibration would not preserve ranks")

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the (N, 14) probabilities of (N, 14) logits, with the same dtype and on the same device."""
        slope, intercept = (torch.from_numpy(values).to(logits) for values in (self.slope, self.intercept))  # (14,)
        return torch.addcmul(intercept, logits, slope).sigmoid_()


def identity() -> Calibration:
    """Return the calibration that leaves logits unchanged."""
    return Calibration(np.ones(len(FINDINGS)), np.zeros(len(FINDINGS)))
