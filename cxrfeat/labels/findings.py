"""The 14 findings of ChestX-ray14 and the two ways they are written: ``"A|B"`` and multi-hot.

"No Finding" is the all-zero vector, never a fifteenth class, and it does not mean healthy: it means
that none of these 14 was mined from the report.

Source: Wang et al., ChestX-ray8, CVPR 2017, and the label file Data_Entry_2017_v2020.csv.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

FINDINGS: tuple[str, ...] = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
"""In the order of the paper: every vector of labels or probabilities in the project follows it."""

NO_FINDING = "No Finding"
ANY_FINDING = "any_finding"
"""That at least one of the 14 is there."""

SEPARATOR = "|"


def any_finding(probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return (N,) scores that there is any finding, from (N, F) probabilities: 1 - Π (1 - p).

    It would be the probability if findings were independent. They are not, so it ranks films, and has thresholds of its
    own.
    """
    none: NDArray[np.float64] = np.prod(1 - probabilities.astype(np.float64), axis=1)
    return 1 - none


def parse_findings(label: str) -> list[str]:
    """Read ``"A|B"`` into finding names in canonical order without repeats; ``"No Finding"`` is ``[]``.

    Raises:
        ValueError: an empty label, an unknown name, or No Finding beside a finding.

    Example:
        >>> parse_findings("Mass|Atelectasis"), parse_findings("No Finding")
        (['Atelectasis', 'Mass'], [])
    """
    names = {name.strip() for name in label.split(SEPARATOR)}
    if names == {NO_FINDING}:
        return []
    unknown = sorted(names.difference(FINDINGS))
    if unknown:
        raise ValueError(f"label {label!r} names {unknown}; known are {NO_FINDING!r} alone, or {FINDINGS}")
    return [finding for finding in FINDINGS if finding in names]


def format_findings(findings: Iterable[str]) -> str:
    """Write finding names as ``"A|B"`` in canonical order; none at all is ``"No Finding"``.

    Raises:
        ValueError: an unknown name.
    """
    given = set(findings)
    unknown = sorted(given.difference(FINDINGS))
    if unknown:
        raise ValueError(f"unknown findings {unknown}; known are {FINDINGS}")
    return SEPARATOR.join(finding for finding in FINDINGS if finding in given) or NO_FINDING


def to_multi_hot(findings: Sequence[Sequence[str]]) -> NDArray[np.float32]:
    """Turn N lists of finding names into an (N, 14) float32 matrix of 0 and 1.

    Raises:
        ValueError: an unknown name; the message gives the row.

    Example:
        >>> to_multi_hot([["Mass"], []])[:, FINDINGS.index("Mass")]
        array([1., 0.], dtype=float32)
    """
    column = {finding: index for index, finding in enumerate(FINDINGS)}
    hot = np.zeros((len(findings), len(FINDINGS)), dtype=np.float32)
    for row, names in enumerate(findings):
        for name in names:
            if name not in column:
                raise ValueError(f"row {row}: unknown finding {name!r}; known are {FINDINGS}")
            hot[row, column[name]] = 1.0
    return hot


def from_multi_hot(hot: NDArray[np.generic]) -> list[list[str]]:
    """Turn an (N, 14) matrix of 0 and 1 into N lists of finding names; the inverse of :func:`to_multi_hot`.

    Raises:
        ValueError: a wrong shape, or a value other than 0 and 1.
    """
    if hot.ndim != 2 or hot.shape[1] != len(FINDINGS):
        raise ValueError(f"multi-hot labels have shape {hot.shape}; expected (N, {len(FINDINGS)})")
    if not np.isin(hot, (0, 1)).all():
        raise ValueError("multi-hot labels hold values other than 0 and 1")
    return [[FINDINGS[column] for column in np.flatnonzero(row)] for row in hot]
