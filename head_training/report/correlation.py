"""Findings against findings: how labels correlate, and which pair does most."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def correlate(labels: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return Pearson's r between the columns of (N, F) labels as (F, F); NaN where a column is constant or N is below 2."""
    if len(labels) < 2:
        return np.full((labels.shape[1], labels.shape[1]), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):  # a constant column: 0/0, which is what NaN says
        correlations: NDArray[np.float64] = np.corrcoef(labels, rowvar=False, dtype=np.float64)
    return correlations


def strongest_pair(values: NDArray[np.floating], *, symmetric: bool) -> tuple[int, int] | None:
    """Return row and column of the largest value off the diagonal, of equals the first; None where all are NaN."""
    lower = -np.inf
    candidates = np.where(np.isfinite(values), values, lower)
    np.fill_diagonal(candidates, lower)
    if symmetric:
        candidates[np.tril_indices(len(candidates))] = lower
    row, column = np.unravel_index(int(candidates.argmax()), candidates.shape)
    return (int(row), int(column)) if np.isfinite(candidates[row, column]) else None
