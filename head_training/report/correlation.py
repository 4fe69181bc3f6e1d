"""Correlations between the labels of findings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def correlate(labels: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return Pearson's r between the columns of (N, F) labels as (F, F); NaN for a constant column or N below 2."""
    if len(labels) < 2:
        return np.full((labels.shape[1], labels.shape[1]), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):  # a constant column gives 0/0 = NaN
        correlations: NDArray[np.float64] = np.corrcoef(labels, rowvar=False, dtype=np.float64)  # (F, F)
    return correlations


def strongest_pair(values: NDArray[np.floating], *, symmetric: bool) -> tuple[int, int] | None:
    """Return row and column of the largest off-diagonal value of (F, F), the first of equals; None if all are NaN."""
    lowest = -np.inf
    candidates = np.where(np.isfinite(values), values, lowest)  # (F, F)
    np.fill_diagonal(candidates, lowest)
    if symmetric:
        candidates[np.tril_indices(len(candidates))] = lowest
    row, column = np.unravel_index(int(candidates.argmax()), candidates.shape)
    return (int(row), int(column)) if np.isfinite(candidates[row, column]) else None
