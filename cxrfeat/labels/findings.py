"""The 14 findings of ChestX-ray14 and their two encodings: text such as ``"A|B"``, and multi-hot vectors.

"No Finding" is the all-zero vector, not a fifteenth class. It does not mean healthy: it means that text mining found
none of these 14 findings in the report.

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
"""Findings in the order of the paper, which is the order of all label and probability vectors of the project."""

NO_FINDING = "No Finding"
ANY_FINDING = "any_finding"
"""Name of the score for the presence of at least one finding."""

SEPARATOR = "|"
_EXPECTED = f"expected names among {', '.join(FINDINGS)}"


def any_finding(probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return (N,) scores for the presence of any finding from (N, F) probabilities: 1 - Π (1 - p).

    The score would be a probability if findings were independent. They are not, so it only ranks images and has
    separate thresholds.
    """
    none: NDArray[np.float64] = np.prod(1 - probabilities.astype(np.float64), axis=1)
    return 1 - none


def parse_findings(label: str) -> list[str]:
    """Parse ``"A|B"`` into unique finding names in canonical order; ``"No Finding"`` gives ``[]``.

    Raises:
        ValueError: the label is empty, contains an unknown name, or combines No Finding with a finding.

    Example:
        >>> parse_findings("Mass|Atelectasis"), parse_findings("No Finding")
        (['Atelectasis', 'Mass'], [])
    """
    names = {name.strip() for name in label.split(SEPARATOR)}
    if names == {NO_FINDING}:
        return []
    invalid = sorted(names.difference(FINDINGS))
    if invalid:
        parts = ", ".join(map(repr, invalid))
        raise ValueError(f"label {label!r} has invalid parts: {parts}; {_EXPECTED}, or {NO_FINDING!r} alone")
    return [finding for finding in FINDINGS if finding in names]


def format_findings(findings: Iterable[str]) -> str:
    """Format finding names as ``"A|B"`` in canonical order, or ``"No Finding"`` for an empty input.

    Raises:
        ValueError: a name is unknown.
    """
    given = set(findings)
    unknown = sorted(given.difference(FINDINGS))
    if unknown:
        raise ValueError(f"unknown findings: {', '.join(map(repr, unknown))}; {_EXPECTED}")
    return SEPARATOR.join(finding for finding in FINDINGS if finding in given) or NO_FINDING


def to_multi_hot(findings: Sequence[Sequence[str]]) -> NDArray[np.float32]:
    """Encode N lists of finding names as an (N, 14) float32 matrix of 0 and 1.

    Raises:
        ValueError: a name is unknown; the message gives the row.

    Example:
        >>> to_multi_hot([["Mass"], []])[:, FINDINGS.index("Mass")]
        array([1., 0.], dtype=float32)
    """
    column = {finding: index for index, finding in enumerate(FINDINGS)}
    hot = np.zeros((len(findings), len(FINDINGS)), dtype=np.float32)  # (N, F)
    for row, names in enumerate(findings):
        for name in names:
            if name not in column:
                raise ValueError(f"row {row}: unknown finding {name!r}; {_EXPECTED}")
            hot[row, column[name]] = 1.0
    return hot


def from_multi_hot(hot: NDArray[np.generic]) -> list[list[str]]:
    """Decode an (N, 14) matrix of 0 and 1 into N lists of finding names, the inverse of :func:`to_multi_hot`.

    Raises:
        ValueError: the shape is wrong, or a value is neither 0 nor 1.
    """
    if hot.ndim != 2 or hot.shape[1] != len(FINDINGS):
        raise ValueError(f"multi-hot labels have shape {hot.shape}; expected (N, {len(FINDINGS)})")
    if not np.isin(hot, (0, 1)).all():
        raise ValueError("multi-hot labels contain values other than 0 and 1")
    return [[FINDINGS[column] for column in np.flatnonzero(row)] for row in hot]
