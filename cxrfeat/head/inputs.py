"""Input vectors of a head: the standardised embedding, then age and sex if the head uses them.

The statistics come from the training set and are stored with the head, so that training and scoring agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cxrfeat.labels.cells import parse_sex

AGE, SEX = "age", "sex"
COVARIATES = (AGE, SEX)
"""Optional inputs besides the embedding, in column order."""

SEX_CODES: Mapping[str, float] = {"M": 1.0, "F": 0.0}

AGE_SCALE = 100.0
"""Divisor of the age in years; ages that the metadata accepts become 0–1.23."""

_BLOCK_ROWS = 4096
"""Rows per block: 32 MB of 2048-d vectors, small enough for the caches."""


@dataclass(frozen=True)
class Inputs:
    """Statistics that turn rows into a head's input vectors.

    Attributes:
        mean: (D,) float32, subtracted from the embedding.
        scale: (D,) float32, greater than 0, divides the difference.
        imputed: replacement for missing values of each covariate in use: age in years, share of men.
    """

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    imputed: Mapping[str, float]

    @property
    def covariates(self) -> tuple[str, ...]:
        """Names of the covariates in use, in column order."""
        return tuple(name for name in COVARIATES if name in self.imputed)

    @property
    def width(self) -> int:
        """Length of the input vector."""
        return len(self.mean) + len(self.imputed)

    def apply(self, rows: NDArray[np.float32]) -> dict[str, int]:
        """Turn raw rows into inputs in place, because a second copy of the matrix may not fit into memory.

        Args:
            rows: (N, width) float32: raw embedding, then age in years and sex (M = 1, F = 0) if in use; NaN = missing.
                Overwritten with (embedding - mean) / scale, age / 100, sex; contains no NaN afterwards.

        Returns:
            Number of imputed values by covariate.

        Raises:
            ValueError: the rows have another width.
        """
        if rows.ndim != 2 or rows.shape[1] != self.width:
            raise ValueError(f"rows have shape {rows.shape}; expected (N, {self.width})")
        dim = len(self.mean)
        for start in range(0, len(rows), _BLOCK_ROWS):
            embedding = rows[start : start + _BLOCK_ROWS, :dim]  # (block, D), a view
            embedding -= self.mean
            embedding /= self.scale
        counts = {}
        for column, name in enumerate(self.covariates, start=dim):
            missing = np.isnan(rows[:, column])
            rows[missing, column] = self.imputed[name]
            counts[name] = int(missing.sum())
            if name == AGE:
                rows[:, column] /= AGE_SCALE
        return counts


def encode_sexes(sexes: pa.Array) -> NDArray[np.float32]:
    """Turn N strings into (N,) float32: M = 1, F = 0; null and unknown values become NaN, they are never guessed.

    Words are understood as in metadata tables: M, F, male, female in any case.
    """
    words = pc.unique(sexes)
    parsed = [None if word is None else parse_sex(word).value for word in words.to_pylist()]
    codes = pa.array([SEX_CODES.get(str(sex), float("nan")) for sex in parsed], pa.float32())
    numbers: NDArray[np.float32] = codes.take(pc.index_in(sexes, words)).to_numpy(zero_copy_only=False)
    return numbers
