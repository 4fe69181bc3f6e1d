"""What a head is fed: the standardised embedding, then age, then sex, as far as they are used.

The statistics are those of the training set and travel with the head, so that training and scoring do the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

AGE, SEX = "age", "sex"
COVARIATES = (AGE, SEX)
"""Inputs beside the embedding, in the order of their columns."""

SEX_CODES: Mapping[str, float] = {"M": 1.0, "F": 0.0}

AGE_SCALE = 100.0
"""Years by which an age is divided: 0–1.23 for every age that the metadata accepts."""

_ROWS_AT_ONCE = 4096
"""Rows that are changed at a time: 32 MB of 2048-d vectors stay in reach of the caches."""


@dataclass(frozen=True)
class Inputs:
    """How one row becomes a head's input vector.

    Attributes:
        mean: (D,) float32, subtracted from the embedding.
        scale: (D,) float32, above 0, divides it then.
        imputed: for each covariate in use, what stands in for a missing value: age in years, share of men.
    """

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    imputed: Mapping[str, float]

    @property
    def covariates(self) -> tuple[str, ...]:
        """Names of the covariates in use, in the order of their columns."""
        return tuple(name for name in COVARIATES if name in self.imputed)

    @property
    def width(self) -> int:
        """Length of the input vector."""
        return len(self.mean) + len(self.imputed)

    def apply(self, rows: NDArray[np.float32]) -> dict[str, int]:
        """Turn raw rows into inputs, in place: a second copy of the matrix would not fit where the first just does.

        Args:
            rows: (N, width) float32: raw embedding, then age in years and sex (M = 1, F = 0) as far as they are in
                use; NaN = missing. It becomes (embedding - mean) / scale, age / 100, sex, and holds no NaN.

        Returns:
            How many values were imputed, by name.

        Raises:
            ValueError: rows of another width.
        """
        if rows.ndim != 2 or rows.shape[1] != self.width:
            raise ValueError(f"rows have shape {rows.shape}; expected (N, {self.width})")
        dim = len(self.mean)
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            embedding = rows[start : start + _ROWS_AT_ONCE, :dim]
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
    """Turn N texts into (N,) float32: M = 1, F = 0; null and unknown ones are NaN: they are never guessed."""
    codes = pa.array(SEX_CODES.values(), pa.float32())
    known = codes.take(pc.index_in(sexes, pa.array(SEX_CODES, pa.string())))
    numbers: NDArray[np.float32] = known.to_numpy(zero_copy_only=False)
    return numbers
