"""Calibration of logits to probabilities: one increasing line per label, which preserves ranks and AUROC.

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


@dataclass(frozen=True)
class Calibration:
    """Calibration line of each label: logit of the probability = slope · logit + intercept.

    Attributes:
        slope: (F,) float64, greater than 0.
        intercept: (F,) float64.

    Raises ValueError for different shapes, a slope of 0 or below, or a value that is not finite.
    """

    slope: NDArray[np.float64]
    intercept: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Check shapes and values: only positive slopes preserve ranks."""
        for name in ("slope", "intercept"):
            values = getattr(self, name)
            if values.shape != (len(self.slope),) or not np.isfinite(values).all():
                raise ValueError(
                    f"{name} has shape {values.shape} and {np.isfinite(values).sum()} finite values; "
                    f"expected {len(self.slope)} finite values"
                )
        if not (self.slope > 0).all():
            columns = ", ".join(map(str, np.flatnonzero(self.slope <= 0)))
            raise ValueError(f"slopes of labels {columns} are 0 or below; calibration would not preserve ranks")

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the (N, F) probabilities of (N, F) logits, with the same dtype and on the same device."""
        slope, intercept = (torch.from_numpy(values).to(logits) for values in (self.slope, self.intercept))  # (F,)
        return torch.addcmul(intercept, logits, slope).sigmoid_()


def identity(outputs: int) -> Calibration:
    """Return the calibration of ``outputs`` labels that leaves logits unchanged."""
    return Calibration(np.ones(outputs), np.zeros(outputs))
