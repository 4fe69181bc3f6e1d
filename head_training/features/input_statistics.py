"""Training set statistics for the inputs of a head: standardisation of the embedding, imputation of covariates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cxrfeat.errors import FeaturesError
from cxrfeat.head.inputs import Inputs

_CHUNK_ROWS = 4096
_CONSTANT = 1e-6
"""A column with a standard deviation below this share of its mean is constant up to rounding, and gets scale 1."""


def measure_inputs(train: NDArray[np.float32], covariates: tuple[str, ...], *, standardise: bool) -> Inputs:
    """Return the training set's mean and standard deviation of the embedding, and the means of the covariates.

    Args:
        train: (N, D + covariates) float32 raw rows of the training set; NaN marks a missing covariate.
        covariates: names of the last columns.
        standardise: False returns mean 0 and scale 1, which keep the embedding unchanged.

    Returns:
        (D,) float32 mean and scale, and the value imputed for each missing covariate; all are computed in float64.

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
    scale = np.where(deviation > _CONSTANT * np.abs(mean), deviation, 1.0)  # (D,)
    return Inputs(mean.astype(np.float32), scale.astype(np.float32), imputed)


def _central_moment(rows: NDArray[np.float32], centre: NDArray[np.float64], *, power: int) -> NDArray[np.float64]:
    """Return the (D,) float64 means of (row - centre) ** power over (N, D) rows, as float32 sums would drift."""
    total = np.zeros(rows.shape[1])  # (D,)
    for start in range(0, len(rows), _CHUNK_ROWS):
        total += ((rows[start : start + _CHUNK_ROWS] - centre) ** power).sum(axis=0)
    return total / len(rows)
