"""Training set statistics for the inputs of a head: standardisation of the embedding, imputation of covariates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cxrfeat.errors import FeaturesError
from cxrfeat.head.inputs import Inputs

_CHUNK_ROWS = 4096
_CONSTANT = 1e-6
"""Standard deviations below this share of the mean are rounding errors; such a constant column is not scaled up."""


def measure_inputs(train: NDArray[np.float32], covariates: tuple[str, ...], *, standardise: bool) -> Inputs:
    """Compute mean and standard deviation of the embedding, and means of the covariates.

    Args:
        train: (N, D + covariates) float32 raw rows of the training set; NaN marks a missing covariate.
        covariates: names of the last columns.
        standardise: False keeps the embedding unchanged.

    Raises:
        FeaturesError: a covariate is missing in all training rows.
    """
    dim = train.shape[1] - len(covariates)
    imputed = {}
    for name, column in zip(covariates, train[:, dim:].T, strict=True):  # column: (N,)
        known = column[~np.isnan(column)]
        if not len(known):
            raise FeaturesError(f"none of the {len(train)} training rows has {name}; train --without {name}")
        imputed[name] = float(known.mean(dtype=np.float64))
    if not standardise:
        return Inputs(np.zeros(dim, np.float32), np.ones(dim, np.float32), imputed)
    mean = _central_moment(train[:, :dim], np.zeros(dim), power=1)  # (D,)
    deviation = np.sqrt(_central_moment(train[:, :dim], mean, power=2))  # (D,)
    scale = np.where(deviation > _CONSTANT * np.abs(mean), deviation, 1.0)
    return Inputs(mean.astype(np.float32), scale.astype(np.float32), imputed)


def _central_moment(rows: NDArray[np.float32], centre: NDArray[np.float64], *, power: int) -> NDArray[np.float64]:
    """Return the (D,) means of (row - centre) ** power in float64; float32 sums drift over a hundred thousand rows."""
    total = np.zeros(rows.shape[1])
    for start in range(0, len(rows), _CHUNK_ROWS):
        total += ((rows[start : start + _CHUNK_ROWS] - centre) ** power).sum(axis=0)
    return total / len(rows)
