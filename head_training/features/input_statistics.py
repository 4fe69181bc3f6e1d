"""Statistics of the training set that the inputs need."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cxrfeat.errors import FeaturesError
from cxrfeat.head.inputs import Inputs

_ROWS_AT_ONCE = 4096
_CONSTANT = 1e-6
"""Standard deviations below this share of the mean are rounding: such a column carries nothing and is not blown up."""


def measure_inputs(train: NDArray[np.float32], covariates: tuple[str, ...], *, standardise: bool) -> Inputs:
    """Measure how inputs are made: mean and standard deviation of the embedding, means of the covariates.

    Args:
        train: (N, D + covariates) float32 raw rows of the training set, NaN = missing among the covariates.
        covariates: names of the last columns.
        standardise: False leaves the embedding as it is.

    Raises:
        FeaturesError: an covariate that no training row has.
    """
    dim = train.shape[1] - len(covariates)
    imputed = {}
    for name, column in zip(covariates, train[:, dim:].T, strict=True):
        known = column[~np.isnan(column)]
        if not len(known):
            raise FeaturesError(f"none of the {len(train)} training rows has {name}; train --without {name}")
        imputed[name] = float(known.mean(dtype=np.float64))
    if not standardise:
        return Inputs(np.zeros(dim, np.float32), np.ones(dim, np.float32), imputed)
    mean = _mean(train[:, :dim], np.zeros(dim), power=1)
    deviation = np.sqrt(_mean(train[:, :dim], mean, power=2))
    scale = np.where(deviation > _CONSTANT * np.abs(mean), deviation, 1.0)
    return Inputs(mean.astype(np.float32), scale.astype(np.float32), imputed)


def _mean(rows: NDArray[np.float32], centre: NDArray[np.float64], *, power: int) -> NDArray[np.float64]:
    """Return the mean of (row - centre) ** power, in float64: float32 sums drift over a hundred thousand rows."""
    total = np.zeros(rows.shape[1])
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        total += ((rows[start : start + _ROWS_AT_ONCE] - centre) ** power).sum(axis=0)
    return total / len(rows)
