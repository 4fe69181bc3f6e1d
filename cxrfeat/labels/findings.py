"""The 14 findings of ChestX-ray14, as text such as ``"A|B"`` and as multi-hot vectors.

"No Finding" is the all-zero vector, not a fifteenth class. It does not mean healthy: it means that text mining found
none of these 14 findings in the report.

Source: Wang et al., ChestX-ray8, CVPR 2017, and the label file Data_Entry_2017_v2020.csv.
"""

from __future__ import annotations

from collections.abc import Iterable

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
"""Findings in the order of the paper."""

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


def format_findings(findings: Iterable[str]) -> str:
    """Format finding names as ``"A|B"`` in canonical order, or ``"No Finding"`` for an empty input.

    Raises:
        ValueError: a name is unknown.

    Example:
        >>> format_findings(["Mass", "Atelectasis"]), format_findings([])
        ('Atelectasis|Mass', 'No Finding')
    """
    given = set(findings)
    unknown = sorted(given.difference(FINDINGS))
    if unknown:
        raise ValueError(f"unknown findings: {', '.join(map(repr, unknown))}; {_EXPECTED}")
    return SEPARATOR.join(finding for finding in FINDINGS if finding in given) or NO_FINDING


def from_multi_hot(hot: NDArray[np.generic]) -> list[list[str]]:
    """Decode an (N, 14) matrix of 0 and 1 into N lists of finding names.

    Raises:
        ValueError: the shape is wrong, or a value is neither 0 nor 1.
    """
    if hot.ndim != 2 or hot.shape[1] != len(FINDINGS):
        raise ValueError(f"multi-hot labels have shape {hot.shape}; expected (N, {len(FINDINGS)})")
    if not np.isin(hot, (0, 1)).all():
        raise ValueError("multi-hot labels contain values other than 0 and 1")
    return [[FINDINGS[column] for column in np.flatnonzero(row)] for row in hot]
